package observe_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/podid-io/podid/internal/observe"
)

const route = "/metadata/identity/oauth2/token"

// takeAll records every metric once.
func takeAll(m *observe.Metrics) {
	m.AssignedIdentityAdded(time.Second)
	m.AssignedIdentityDeleted(time.Second)
	m.AssignedIdentityUpdated(time.Second)
	m.Cycle(time.Second)
	m.Leading(true)
	m.CloudOperation("vmss_update", time.Second, nil)
	m.CloudOperation("vmss_update", time.Second, errors.New("x"))
	m.Throttled("vmss_update")
	m.AttachmentBegan(3)
	m.AssignedIdentities("Assigned", 4)
	m.Nodes("vmss", 7)
	m.Quarantined("ns", "id", "NotFound")
	m.KubernetesError(observe.OpAssignedIdentityAddition)
	m.Operation(route, 200, "ns", "https://vault.azure.net", time.Second)
	m.TokenRequest(404, "NoBinding")
	m.TokenCache(observe.CacheHit)
	m.TokenCacheEntries(5)
	m.WaitBegan()
	m.WaitBegan()
	m.WaitEnded(200, time.Second)
	m.RedirectState(true)
	m.CiliumHostRouting("unknown")
	m.WireProbed("unknown")
	m.WireProbed("arrives")
	m.RedirectRepaired()
	m.SourceOperation(observe.OpTokenUserAssigned, time.Second, nil)
	m.SourceOperation(observe.OpTokenUserAssigned, time.Second, errors.New("x"))
}

// series are the series that /metrics shows with their values, histograms with
// their counts. The prefix is left out.
func series(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", w.Code, w.Body)
	}
	out := map[string]float64{}
	histogram := ""
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			histogram, _ = strings.CutSuffix(name, " histogram")
		}
		name, value, ok := cutLast(line)
		if strings.HasPrefix(line, "#") || !ok || strings.HasPrefix(name, histogram+"_bucket") || strings.HasPrefix(name, histogram+"_sum") {
			continue
		}
		if rest, ok := strings.CutPrefix(name, histogram+"_count"); ok {
			name = histogram + rest
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out[strings.ReplaceAll(strings.TrimPrefix(name, "aadpodidentity_"), `"`, "")] = number
	}
	return out
}

func cutLast(line string) (name, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

func withoutBuild(all map[string]float64) map[string]float64 {
	for name := range all {
		if strings.HasPrefix(name, "build_info{") {
			delete(all, name)
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := observe.NewMetrics(reg)
	if got := withoutBuild(series(t, reg)); len(got) > 0 {
		t.Errorf("measured before anything happened: %v", got)
	}
	takeAll(m)
	want := map[string]float64{
		// As v1.8.17 has them.
		"assigned_identity_addition_duration_seconds":                                       1,
		"assigned_identity_addition_count":                                                  1,
		"assigned_identity_deletion_duration_seconds":                                       1,
		"assigned_identity_deletion_count":                                                  1,
		"assigned_identity_update_duration_seconds":                                         1,
		"assigned_identity_update_count":                                                    1,
		"mic_cycle_duration_seconds":                                                        1,
		"mic_cycle_count":                                                                   1,
		"mic_new_leader_election_count":                                                     1,
		"cloud_provider_operations_duration_seconds{operation_type=vmss_update}":            1,
		"cloud_provider_operations_errors_count{operation_type=vmss_update}":                1,
		"kubernetes_api_operations_errors_count{operation_type=assigned_identity_addition}": 1,
		"imds_operations_duration_seconds{operation_type=adal_token_msi_userassignedid}":    1,
		"imds_operations_errors_count{operation_type=adal_token_msi_userassignedid}":        1,
		"nmi_operations_duration_seconds{namespace=ns,operation_type=" + route + ",resource=https://vault.azure.net,status_code=200}": 1,
		// New in podid.
		"mic_leader": 1,
		"mic_arm_throttled_total{operation_type=vmss_update}":                  1,
		"mic_attachments_in_flight":                                            1,
		"mic_attachment_identities":                                            1,
		"mic_assigned_identities{state=Assigned}":                              4,
		"mic_nodes{group_kind=vmss}":                                           7,
		"mic_quarantined_identities{identity=id,namespace=ns,reason=NotFound}": 1,
		"nmi_token_requests_total{reason=NoBinding,status_code=404}":           1,
		"nmi_token_cache_requests_total{outcome=hit}":                          1,
		"nmi_token_cache_entries":                                              5,
		"nmi_waiting_requests":                                                 1,
		"nmi_wait_duration_seconds{status_code=200}":                           1,
		"nmi_redirect_ready":                                                   1,
		"nmi_cilium{host_routing=unknown}":                                     1,
		"nmi_wire_probe{result=arrives}":                                       1,
		"nmi_redirect_changes_total{result=repaired}":                          1,
	}
	if diff := cmp.Diff(want, withoutBuild(series(t, reg))); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func TestMetricsTakenBack(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := observe.NewMetrics(reg)
	takeAll(m)
	m.AttachmentEnded()
	m.Leading(false)
	m.RedirectState(false)
	m.RedirectSet()
	m.RedirectFailed()
	m.Quarantined("ns", "id", "Forbidden")
	got := series(t, reg)
	for name, want := range map[string]float64{
		"mic_attachments_in_flight": 0, "mic_leader": 0, "nmi_redirect_ready": 0,
		"nmi_redirect_changes_total{result=set}": 1, "nmi_redirect_changes_total{result=failed}": 1,
		"mic_quarantined_identities{identity=id,namespace=ns,reason=Forbidden}": 1,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if _, ok := got["mic_quarantined_identities{identity=id,namespace=ns,reason=NotFound}"]; ok {
		t.Error("an earlier reason is still shown")
	}
	m.QuarantineLifted("ns", "id")
	for name := range series(t, reg) {
		if strings.HasPrefix(name, "mic_quarantined") {
			t.Errorf("still there: %s", name)
		}
	}
}

func TestMetricsTwice(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	takeAll(observe.NewMetrics(reg))
	takeAll(observe.NewMetrics(reg))
	if got := series(t, reg)["mic_cycle_count"]; got != 2 {
		t.Errorf("the two do not share: %v", got)
	}
	takeAll(observe.NewMetrics(nil))
}

// TestMetricsBounded checks that values chosen by pods create a bounded number of series, and that
// a noisy namespace does not use up the room of another.
func TestMetricsBounded(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := observe.NewMetrics(reg)
	for i := range 5000 {
		m.Operation(route, 200, "noisy", fmt.Sprint("https://", i), time.Second)
		m.TokenRequest(i, "x")
	}
	m.Operation(route, 200, "quiet", "https://vault.azure.net", time.Second)
	m.Operation(route, 400, "quiet", strings.Repeat("ü", 100)+"\xff", time.Second)
	m.TokenCache(observe.CacheOutcome(77))
	counts := map[string]int{}
	total := 0.0
	for name, n := range series(t, reg) {
		switch {
		case strings.Contains(name, "namespace=noisy"):
			counts["noisy"]++
			total += n
		case strings.Contains(name, "namespace=quiet"):
			counts["quiet"]++
		case strings.HasPrefix(name, "nmi_token_requests_total"):
			counts["requests"]++
		}
	}
	if counts["noisy"] > 60 || counts["quiet"] != 2 || counts["requests"] > 400 {
		t.Errorf("series: %v", counts)
	}
	if total != 5000 {
		t.Errorf("%v requests of the noisy namespace were counted, want 5000", total)
	}
}

func TestMetricsConcurrently(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := observe.NewMetrics(reg)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 500 {
				m.Operation(route, 200, "ns", fmt.Sprint(i%7), time.Second)
				m.TokenCache(observe.CacheMiss)
				m.WaitBegan()
				m.WaitEnded(200, 0)
			}
		})
	}
	wg.Wait()
	if got := series(t, reg)["nmi_token_cache_requests_total{outcome=miss}"]; got != 2000 {
		t.Errorf("counted %v, want 2000", got)
	}
}

func TestRequestPathAllocates(t *testing.T) {
	m := observe.NewMetrics(prometheus.NewRegistry())
	allocs := testing.AllocsPerRun(100, func() { requestPath(m) })
	if allocs > 0 {
		t.Errorf("%v allocations a request, want none", allocs)
	}
}

func requestPath(m *observe.Metrics) {
	m.Operation(route, 200, "team-a", "https://management.azure.com/", time.Millisecond)
	m.TokenRequest(200, "")
	m.TokenCache(observe.CacheHit)
}

func BenchmarkRequestPath(b *testing.B) {
	m := observe.NewMetrics(prometheus.NewRegistry())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			requestPath(m)
		}
	})
}
