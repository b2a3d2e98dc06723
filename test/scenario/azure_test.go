// The stories' view of the emulated Azure: what exists, what is on the nodes, what was requested.
package scenario_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/control"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox"
)

// azure controls the emulator of a sandbox.
type azure struct {
	control *control.Client
	ca      string // its certificate, PEM
}

func newAzure(s *sandbox.Sandbox) (*azure, error) {
	ns, err := s.Switch()
	if err != nil {
		return nil, err
	}
	dir := s.Layout().Azure()
	var endpoints struct {
		Control string `json:"control"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "endpoints.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &endpoints); err != nil {
		return nil, fmt.Errorf("read the emulator's endpoints: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	inside := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return ns.Dial(ctx, network, address)
	}}
	return &azure{control: control.NewClient(endpoints.Control).Over(inside), ca: string(ca)}, nil
}

// identity creates a managed identity of that name, which is on no machine yet.
func (a *azure) identity(ctx context.Context, name string) (world.Identity, error) {
	id := unknownIdentity(name)
	return id, a.control.PutIdentity(ctx, id)
}

// unknownIdentity returns an identity that does not exist.
func unknownIdentity(name string) world.Identity {
	group := strings.TrimSuffix(sandbox.Identities()[0].ResourceID, sandbox.Identities()[0].Name)
	return world.Identity{ResourceID: group + name, ClientID: world.GUID(name + "/client"), PrincipalID: world.GUID(name + "/principal")}
}

// onNodes reports whether IMDS on the nodes knows the identity.
func (a *azure) onNodes(ctx context.Context, id world.Identity) (bool, error) {
	machines, err := a.control.Machines(ctx, sandbox.ScaleSet)
	if err != nil {
		return false, err
	}
	if len(machines) != 1 {
		return false, fmt.Errorf("there are %d scale sets called %s", len(machines), sandbox.ScaleSet)
	}
	return slices.ContainsFunc(machines[0].OnIMDS, func(on string) bool { return strings.EqualFold(on, id.ResourceID) }), nil
}

// awaitOnNodes waits until the identity is on the nodes, or is not. It checks after every request
// to ARM, because the client that updates a scale set polls until the update is done.
func (a *azure) awaitOnNodes(ctx context.Context, id world.Identity, want bool) error {
	for {
		last, err := a.mark(ctx)
		if err != nil {
			return err
		}
		now, err := a.onNodes(ctx, id)
		if err != nil || now == want {
			return err
		}
		if _, err := a.control.Requests(ctx, world.Filter{Surface: "arm", After: last}, 5*time.Second); err != nil {
			return err
		}
	}
}

// mark returns the number of the latest request.
func (a *azure) mark(ctx context.Context) (uint64, error) {
	all, err := a.control.Requests(ctx, world.Filter{}, 0)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	return all[len(all)-1].Seq, nil
}
