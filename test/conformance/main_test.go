// Package conformance_test runs real Azure clients, old and new, against the agent: the real nmi
// with its redirect on a node, a real API server and an emulated Azure, each client in a pod's
// network of its own. It checks what docs/clients.md promises: every client gets the tokens that it
// may have, however it requests them, sees the errors that it should, and recovers from transient
// ones.
//
// What the clients sent is stored in testdata/golden, except for what differs from run to run. A
// new version of a library shows as a difference. To accept it:
//
//	PODID_TEST_KERNEL=1 KUBEBUILDER_ASSETS=... go test ./test/conformance -update
package conformance_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/testnet"
	"github.com/podid-io/podid/test/clients"
)

var update = flag.Bool("update", false, "write the golden files from what the clients send now")

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the time is spent waiting. Processes are bounded by stage.cpu.
	if err := flag.Set("test.parallel", "64"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// atMost bounds everything on a slow machine. Clients have two minutes.
const atMost = 2 * time.Minute

// The resources of tokens. Libraries convert them to scopes and back. The slash at the end must
// survive.
const (
	vault = "https://vault.azure.net"
	arm   = "https://management.azure.com/"
)

// TestClients runs all clients on one node, each in a pod of each kind.
func TestClients(t *testing.T) {
	testnet.Require(t)
	w := newStage(t, build(t))
	for _, c := range w.clients {
		w.arrange(t, c)
	}
	w.startAgent(t)
	t.Run("tokens", func(t *testing.T) {
		for _, c := range w.clients {
			t.Run(c.name, func(t *testing.T) { t.Parallel(); w.tokens(t, c) })
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, c := range w.clients {
			t.Run(c.name, func(t *testing.T) { t.Parallel(); w.errors(t, c) })
		}
	})
	t.Run("throttled", func(t *testing.T) { // it affects the whole node, so one client after the other
		for _, c := range w.clients {
			t.Run(c.name, func(t *testing.T) { w.throttled(t, c) })
		}
	})
	t.Run("retry-after", func(t *testing.T) {
		w.stopAgent(t)
		w.startAgent(t, "--set-retry-after-header")
		for _, c := range w.clients {
			t.Run(c.name, func(t *testing.T) { t.Parallel(); w.retryAfter(t, c) })
		}
	})
}

// built are the programs that the tests run.
type built struct {
	nmi    string
	golang map[string]string // programs, by folder
	node   clients.Node
	python *clients.Python // nil if they are unavailable
}

// build builds the agent and the clients, unless they are built already.
func build(t *testing.T) built {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	source, err := programs.Source()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := programs.Cache(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	kit := clients.Kit{Source: filepath.Join(source, "test/clients"), Cache: filepath.Join(cache, "clients")}
	b := built{golang: map[string]string{}, nmi: filepath.Join(t.TempDir(), "nmi")}
	if err := programs.Build(ctx, "./cmd/nmi", b.nmi, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"azidentity", "azidentity-1.1", "azidentity-0.11", "adal-0.9", "adal-0.5"} {
		if b.golang[name], err = kit.Go(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if b.node, err = kit.Node(ctx); err != nil {
		t.Fatal(err)
	}
	python, err := kit.Python(ctx)
	switch {
	case errors.Is(err, clients.ErrNoPython):
		fmt.Fprintf(os.Stderr, "conformance: the Python clients are left out: %v\n", err)
	case err != nil:
		t.Fatal(err)
	default:
		b.python = &python
	}
	return b
}
