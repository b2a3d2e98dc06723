// The world: a cluster, an Azure and a MIC in one bubble of fake time. The real controllers run
// with their real handlers, predicates, queues and timers, on unreliable caches and an unreliable
// Azure.

package model

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
)

const ledgerNamespace, ledgerName = "mic", "ledger"

// setup is the configuration of a history.
type setup struct {
	Namespaced bool
	Grace      time.Duration
	Drift      time.Duration // between comparisons, 0 for never
	Update     time.Duration // of Azure
	Read       time.Duration // of Azure
	Write      time.Duration // of an assigned identity
	Writers    int
	Lag        [5]time.Duration // of the caches, in the order of kinds
	Strict     bool             // Azure refuses updates of groups that list a deleted identity
	StaleIDs   bool             // Azure shows the old IDs of deleted identities
	Immutable  bool             // the first identity is on the list
	Shout      bool             // Azure spells resource IDs differently than MIC does
	Repair     bool             // before the final checks, Azure is brought into the state that the identities need
	Crowd      int              // how many identities the crowd is granted, 100 a pod
}

func (s setup) String() string {
	return fmt.Sprintf("namespaced %t, grace %s, comparisons every %s, updates take %s, reads %s, writes %s (%d at a time), "+
		"caches lag %v, strict %t, stale IDs %t, immutable %t, spelling %t, mended in the end %t", s.Namespaced, s.Grace, s.Drift, s.Update, s.Read, s.Write, s.Writers,
		s.Lag, s.Strict, s.StaleIDs, s.Immutable, s.Shout, s.Repair)
}

// world is a whole system under test.
type world struct {
	setup  setup
	rules  identity.Rules
	scheme *runtime.Scheme
	server *apiServer
	azure  *azure
	cloud  attachment.Cloud // MIC's Azure: the field azure, unless a story sets another
	log    logr.Logger

	mic *mic

	mu        sync.Mutex
	verdict   string // a short description of the first violation
	details   string
	disturbed time.Time // when the API server last failed
	states    map[string]string
	ready     since
	wrong     since
	writes    int
	byHand    bool // another client changed something on Azure
}

// mic is one run of MIC.
type mic struct {
	caches *caches
	killed atomic.Bool
	since  time.Time
	stop   func()
}

func newWorld(s setup, log io.Writer) *world {
	scheme, err := controllers.Scheme()
	if err != nil {
		panic(err)
	}
	w := &world{
		setup: s, rules: identity.Rules{ForceNamespaced: s.Namespaced}, scheme: scheme, server: newServer(), azure: newAzure(),
		states: map[string]string{}, ready: since{}, wrong: since{}, log: logr.Discard(),
	}
	if log != nil {
		w.log = funcr.New(func(prefix, args string) { _, _ = fmt.Fprintln(log, clock(time.Now()), prefix, args) }, funcr.Options{Verbosity: 1})
	}
	w.cloud = w.azure
	w.azure.fail, w.azure.takes, w.azure.readLag = w.fail, s.Update, s.Read
	w.azure.strict, w.azure.staleIDs, w.azure.grace = s.Strict, s.StaleIDs, s.Grace
	w.azure.late, w.azure.shout = 10*s.Write, s.Shout
	w.azure.fake.KeepStaleIDs(s.StaleIDs)
	w.azure.ledger, w.azure.learned = w.ledger, func() { w.look() }
	w.azure.isFixed = func(k string) bool { return s.Immutable && k == strings.ToLower(resourceID(0)) }
	return w
}

// fail records the first violation.
func (w *world) fail(what, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.verdict == "" {
		w.verdict, w.details = what, clock(time.Now())+" "+fmt.Sprintf(format, args...)
		w.log.Info("WRONG: "+what, "details", w.details)
	}
}

func (w *world) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict != ""
}

// ledger returns the identities of a group according to the ledger ConfigMaps.
func (w *world) ledger(group compute.Group) map[string]bool {
	out := map[string]bool{}
	for _, cm := range listOf[*corev1.ConfigMap](w.server.list) {
		if of, entries, err := ledger.Parse(cm); err == nil && of == group {
			for _, e := range entries {
				out[strings.ToLower(e.ResourceID)] = true
			}
		}
	}
	return out
}

// modelManager is a manager whose reads past the cache go to the model.
type modelManager struct {
	manager.Manager
	reader client.Reader
}

// GetAPIReader implements manager.Manager.
func (m modelManager) GetAPIReader() client.Reader { return m.reader }

// rawAPI answers MIC's requests that bypass its caches: Events, and the watch of an
// AzureIdentityPolicy that does not exist.
type rawAPI struct{}

// RoundTrip implements http.RoundTripper.
func (rawAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	query := req.URL.Query()
	switch {
	case req.Method == http.MethodPost:
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		return respond(req, http.StatusCreated, req.Header.Get("Content-Type"), bytes.NewReader(body)), nil
	case query.Get("sendInitialEvents") != "": // like an API server without watch-list
		return respond(req, http.StatusUnprocessableEntity, "application/json", strings.NewReader(
			`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)), nil
	case query.Get("watch") != "":
		silence, end := io.Pipe()
		context.AfterFunc(req.Context(), func() { _ = end.Close() })
		return respond(req, http.StatusOK, "application/json", silence), nil
	default:
		return respond(req, http.StatusOK, "application/json", strings.NewReader(
			`{"kind":"AzureIdentityPolicyList","apiVersion":"`+v1.GroupVersion.String()+`","metadata":{"resourceVersion":"1"},"items":[]}`)), nil
	}
}

func respond(req *http.Request, status int, contentType string, body io.Reader) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(body), Request: req,
	}
}

// noMetrics discards all measurements.
type noMetrics struct{}

func (noMetrics) AssignedIdentityAdded(time.Duration)   {}
func (noMetrics) AssignedIdentityUpdated(time.Duration) {}
func (noMetrics) AssignedIdentityDeleted(time.Duration) {}
func (noMetrics) Cycle(time.Duration)                   {}
func (noMetrics) AttachmentBegan(int)                   {}
func (noMetrics) AttachmentEnded()                      {}
func (noMetrics) Quarantined(string, string, string)    {}
func (noMetrics) QuarantineLifted(string, string)       {}
func (noMetrics) AssignedIdentities(string, int)        {}
func (noMetrics) Nodes(string, int)                     {}

// start starts a MIC.
func (w *world) start() {
	m := &mic{since: time.Now()}
	options, err := controllers.CacheOptions()
	must(err)
	m.caches = newCaches(w.server, options, controllers.Cached(), w.lag, w.heard)
	w.mic = m
	w.azure.restart()
	ctx, cancel := context.WithCancel(logr.NewContext(context.Background(), w.log))
	mgr, err := manager.New(&rest.Config{Host: "http://model.invalid", Transport: rawAPI{}}, manager.Options{
		Scheme: w.scheme, Logger: w.log, Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		BaseContext:    func() context.Context { return logr.NewContext(context.WithoutCancel(ctx), w.log) },
		Controller:     config.Controller{SkipNameValidation: new(true)},
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mapper(w.scheme), nil },
		NewCache:       func(*rest.Config, crcache.Options) (crcache.Cache, error) { return m.caches, nil },
		NewClient: func(*rest.Config, client.Options) (client.Client, error) {
			return &kube{Reader: m.caches, server: w.server, scheme: w.scheme, slow: w.setup.Write, killed: &m.killed, wrote: w.wrote}, nil
		},
	})
	must(err)
	drift := w.setup.Drift
	if drift == 0 {
		drift = 10_000 * time.Hour
	}
	settings := attachment.Settings{Grace: w.setup.Grace, RetryInterval: time.Second}
	if w.setup.Immutable {
		settings.Immutable = []string{resourceID(0)}
	}
	policy, err := controllers.Add(ctx, modelManager{mgr, live{w.server, &m.killed}}, w.cloud, noMetrics{}, controllers.Config{
		Rules: w.rules, Attachment: settings, Writes: w.setup.Writers,
		LedgerNamespace: ledgerNamespace, LedgerName: ledgerName,
		DriftInterval: drift, SweepInterval: 10_000 * time.Hour,
	})
	must(err)
	must(mgr.Add(policy))
	w.look()
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	m.stop = func() {
		cancel()
		must(<-ended)
	}
}

// restart stops MIC and starts another one. A killed MIC writes nothing more.
func (w *world) restart(kill bool) {
	w.mic.killed.Store(kill)
	w.mic.stop()
	w.start()
}

func (w *world) lag(k kind) time.Duration {
	for i, o := range kinds() {
		if kindOf(o) == k {
			return w.setup.Lag[i]
		}
	}
	return 0
}

// kinds returns one object of each kind in MIC's caches.
func kinds() []client.Object { return controllers.Cached() }

// informer returns an informer of the current MIC.
func (w *world) informer(n int) *informer {
	return w.mic.caches.informers[kindOf(kinds()[n%len(kinds())])]
}

// seen returns the view of MIC's caches.
func (w *world) seen() *view {
	return viewOf(w.rules, func(k kind) []client.Object {
		all := w.mic.caches.informers[k].all()
		slices.SortFunc(all, func(a, b client.Object) int { return strings.Compare(key(a), key(b)) })
		return all
	})
}

// truth returns the view of the API server.
func (w *world) truth() *view { return viewOf(w.rules, w.server.list) }

// heard is called when MIC's caches have applied changes.
func (w *world) heard(k kind) {
	if w.setup.Crowd > 0 && k == kindOf(&v1.AzureAssignedIdentity{}) {
		return // there are hundreds, and none changes what is needed
	}
	w.look()
}

// wait advances the fake time.
func (w *world) wait(d time.Duration) {
	sleep(context.Background(), d)
	synctest.Wait()
}

// wrote is called after every write of MIC. An object may be Assigned only when the machines have
// the identity.
func (w *world) wrote(verb string, o client.Object) {
	a, ok := o.(*v1.AzureAssignedIdentity)
	if !ok {
		return
	}
	node, _ := w.server.get(kindOf(&corev1.Node{}), client.ObjectKey{Name: a.Spec.NodeName}).(*corev1.Node)
	w.mu.Lock()
	w.writes++
	id := string(a.UID) + " " + a.Spec.NodeName
	before := w.states[id]
	w.states[id] = a.Status.Status
	w.mu.Unlock()
	if verb == "delete" || a.Status.Status != v1.StateAssigned || before == v1.StateAssigned || node == nil ||
		a.Spec.AzureIdentityRef.Spec.Type != v1.UserAssignedMSI {
		return
	}
	group, err := compute.ParseProviderID(node.Spec.ProviderID)
	if err != nil {
		return
	}
	if why := w.azure.unusable(slot{group, strings.ToLower(a.Spec.AzureIdentityRef.Spec.ResourceID)}); why != "" {
		w.fail("Assigned too early", "%s: the machines of %s do not have it: %s", key(a), group, why)
	}
}

func labelsOf(o client.Object) labels.Set { return o.GetLabels() }

func must(err error) {
	if err != nil {
		panic(err)
	}
}
