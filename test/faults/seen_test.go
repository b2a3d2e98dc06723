// What can be observed of a rig: the objects, Azure, MIC's requests, its resources.
package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/identity"
)

// auditPolicy makes the API server record MIC's writes, except for leases, and the state of the
// objects that decide about identities after each write.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: RequestResponse
  users: [mic, admin]
  verbs: [create, update, patch, delete]
  resources:
  - {group: aadpodidentity.k8s.io}
  - {group: "", resources: [pods, pods/status]}
- level: Metadata
  users: [mic]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// look reads the current state.
func (r *rig) look(ctx context.Context) (rest, error) {
	var nodes corev1.NodeList
	var pods corev1.PodList
	var bindings v1.AzureIdentityBindingList
	var identities v1.AzureIdentityList
	var assigned v1.AzureAssignedIdentityList
	var ledgers corev1.ConfigMapList
	var policies v1.AzureIdentityPolicyList
	err := errors.Join(r.client.List(ctx, &assigned), r.client.List(ctx, &nodes), r.client.List(ctx, &pods),
		r.client.List(ctx, &bindings), r.client.List(ctx, &identities), r.client.List(ctx, &policies),
		r.client.List(ctx, &ledgers, client.MatchingLabels{"app.kubernetes.io/managed-by": "podid-mic"}))
	if err != nil {
		return rest{}, err
	}
	rules := r.rules
	for i := range policies.Items { // at most one
		policy, err := identity.CompilePolicy(&policies.Items[i])
		if err != nil {
			return rest{}, err
		}
		rules = rules.With(policy)
	}
	now := rest{
		rules: rules, nodes: nodes.Items, pods: pods.Items, bindings: bindings.Items, identities: identities.Items,
		assigned: assigned.Items, ledgers: map[string][]string{}, azure: map[string]machine{}, refused: refusals(),
		foreign: foreigners(), system: map[string]bool{}, clients: map[string]string{},
	}
	for _, g := range groups() {
		now.system[g.key()] = g.system
	}
	for _, subscription := range []string{subscriptionA, subscriptionB} {
		for _, id := range r.azure.World().Identities(subscription, "") {
			now.clients[fold(id.ResourceID)] = id.ClientID
		}
	}
	for i := range ledgers.Items {
		group, ids, err := readLedger(&ledgers.Items[i])
		if err != nil {
			return rest{}, err
		}
		now.ledgers[group] = ids
	}
	for _, m := range r.azure.World().Machines("", "", "") {
		now.azure[fold(m.ID.String())] = machine{system: m.SystemAssigned != nil, listed: m.Identities}
	}
	return now, nil
}

// foreigners returns what others have attached to the node groups.
func foreigners() map[string][]string {
	out := map[string][]string{}
	for _, g := range groups() {
		out[g.key()] = g.foreign()
	}
	return out
}

func readLedger(cm *corev1.ConfigMap) (group string, ids []string, err error) {
	var g struct{ SubscriptionID, ResourceGroup, Name string }
	var entries []struct {
		ResourceID    string
		Keep, Foreign bool // others attached it
	}
	if err := errors.Join(json.Unmarshal([]byte(cm.Data["group"]), &g), json.Unmarshal([]byte(cm.Data["identities"]), &entries)); err != nil {
		return "", nil, fmt.Errorf("read ledger %s: %w", cm.Name, err)
	}
	for _, known := range groups() {
		if strings.EqualFold(known.subscription, g.SubscriptionID) && strings.EqualFold(known.resourceGroup, g.ResourceGroup) && strings.EqualFold(known.name, g.Name) {
			group = known.key()
		}
	}
	for _, e := range entries {
		if !e.Keep && !e.Foreign {
			ids = append(ids, e.ResourceID)
		}
	}
	return group, ids, nil
}

// calls returns MIC's requests to ARM so far. There are no others.
func (r *rig) calls() calls {
	foreign := foreigners()
	c := calls{perSecond: mostPerSecond, isForeign: func(group, id string) bool { return set(foreign[group])[fold(id)] }}
	r.mu.Lock()
	c.outages = slices.Clone(r.outages)
	r.mu.Unlock()
	for i, req := range r.azure.World().Log().Find(world.Filter{}) {
		if i == 0 && req.Seq != 1 {
			r.t.Fatal("the emulator's log is too short for this run: make the run shorter")
		}
		if req.Surface == world.SurfaceARM {
			c.list = append(c.list, r.call(req))
		}
	}
	slices.SortStableFunc(c.list, func(a, b call) int { return a.at.Compare(b.at) })
	return c
}

func (r *rig) call(req world.Request) call {
	out := call{at: req.Time, took: time.Duration(req.Duration), write: req.Method != http.MethodGet, status: req.Status}
	path := fold(req.Path)
	if strings.Contains(path, "/operations/") {
		return out
	}
	out.group = path
	if op, ok := r.azure.World().Operation(req.Details["operation"]); ok && out.write {
		out.added, out.removed = op.Added, op.Removed
	}
	return out
}

// written counts MIC's writes to the API server after a time, by kind of write.
func (r *rig) written(since time.Time) map[string]int {
	r.t.Helper()
	text, err := os.ReadFile(r.path("audit.log"))
	r.must(err)
	counts := map[string]int{}
	for line := range bytes.Lines(text) {
		var e struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ Resource, Subresource string }
			At        time.Time `json:"requestReceivedTimestamp"`
		}
		if json.Unmarshal(uncut(line), &e) == nil && e.User.Username == "mic" && e.At.After(since) { // the last line may be incomplete
			counts[strings.Trim(e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/")]++
		}
	}
	return counts
}

// needs is the resource usage of a MIC.
type needs struct {
	goroutines, memory, cpu float64 // memory in MiB, CPU in seconds since its start
}

func (n needs) String() string {
	return fmt.Sprintf("%.0f goroutines, %.1f MiB", n.goroutines, n.memory)
}

// needs reads a MIC's own metrics.
func (r *rig) needs(ctx context.Context, index int) (n needs, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address(portMetrics+index)+"/metrics", http.NoBody)
	if err != nil {
		return n, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return n, fmt.Errorf("ask MIC for its metrics: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	const mib = 1 << 20
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		number, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_goroutines":
			n.goroutines = number
		case "process_resident_memory_bytes":
			n.memory = number / mib
		case "process_cpu_seconds_total":
			n.cpu = number
		}
	}
	return n, lines.Err()
}
