package compute

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Unix(1_000_000, 0)

func scaleSet(n int) Group {
	return Group{Kind: VMSS, SubscriptionID: subGUID, ResourceGroup: "rg", Name: fmt.Sprint("set", n)}
}

// drain takes calls until the next would have to wait.
func drain(t *testing.T, b *budget, l lane, groups ...Group) int {
	t.Helper()
	for n := range 10_000 {
		if p, ok := b.take(groups[n%len(groups)], l, epoch, 0); !ok || p.wait > 0 {
			return n
		}
	}
	t.Fatal("no end")
	return 0
}

func TestBudgetSizes(t *testing.T) {
	var many []Group
	for i := range 100 {
		many = append(many, scaleSet(i))
	}
	for _, tt := range []struct {
		name   string
		lane   lane
		groups []Group
		want   int
	}{
		{"updates of one scale set", writing, many[:1], 12},
		{"reads of one", reading, many[:1], 36},
		{"polls of one", polling, many[:1], 45},
		{"writes of a subscription", writing, many, 200},
		{"reads of a subscription", reading, many, 250},
		{"polls leave reads to others", polling, many, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n := drain(t, newBudget(), tt.lane, tt.groups...); n != tt.want {
				t.Errorf("%d at once, want %d", n, tt.want)
			}
		})
	}
	b := newBudget()
	drain(t, b, polling, many...)
	if n := drain(t, b, reading, many...); n != 150 {
		t.Errorf("%d reads while polls have all of theirs, want 150", n)
	}
}

// TestPauseReserves: asking changes nothing, however often.
func TestPauseReserves(t *testing.T) {
	b := newBudget()
	for range 1000 {
		if wait := b.pause(scaleSet(0), epoch); wait != 0 {
			t.Fatalf("nothing was used: %v", wait)
		}
	}
	if len(b.accounts) != 0 {
		t.Error("asking costs memory")
	}
	drain(t, b, writing, scaleSet(0))
	first := b.pause(scaleSet(0), epoch)
	if second := b.pause(scaleSet(0), epoch); first != 15*time.Second || second != first {
		t.Errorf("%v, then %v, want 15 s: 4 updates a minute", first, second)
	}
	if wait := b.pause(scaleSet(1), epoch); wait != 0 {
		t.Errorf("another scale set: %v", wait)
	}
}

// TestHeaders: of the subscription Azure's word counts when it is less than ours (each instance of Resource Manager has
// a count of its own), of a group always.
func TestHeaders(t *testing.T) {
	b, group := newBudget(), scaleSet(0)
	left := func(n float64) *float64 { return &n }
	b.learn(group, reading, word{subscription: left(3), group: left(30)}, epoch)
	b.learn(group, reading, word{subscription: left(11_999)}, epoch)
	if n := drain(t, b, reading, group); n != 3 {
		t.Errorf("%d reads, want the 3 that Azure left", n)
	}
	drain(t, b, writing, group)
	b.learn(group, writing, word{group: left(1 << 31)}, epoch)
	if n := drain(t, b, writing, group); n != 12 {
		t.Errorf("%d updates, want all 12: Azure counts fewer than we did", n)
	}
	b.learn(group, writing, word{region: left(1)}, epoch.Add(time.Hour))
	if p, _ := b.take(scaleSet(1), writing, epoch.Add(time.Hour), 0); p.wait != 0 {
		t.Errorf("the one that is left to the region waits %v", p.wait)
	}
	if p, ok := b.take(scaleSet(2), writing, epoch.Add(time.Hour), 0); ok {
		t.Errorf("a second one goes after %v", p.wait)
	}
}

// TestSpread: when a subscription recovers, its groups come one after another, about as fast as the budget grows, and
// in another order after the next stop.
func TestSpread(t *testing.T) {
	b := newBudget()
	var groups []Group
	for i := range 200 {
		groups = append(groups, scaleSet(i))
	}
	now := epoch
	wakes := func() (all []time.Duration) {
		for _, g := range groups {
			b.take(g, reading, now, 0)
		}
		b.learn(groups[0], writing, word{stop: 17 * time.Second, who: subscription}, now)
		for _, g := range groups {
			wait := b.pause(g, now)
			if wait < 17*time.Second || wait > 37*time.Second+time.Second {
				t.Fatalf("%s is told %v, want 17 s and up to 20 s more", g, wait)
			}
			all = append(all, wait)
		}
		return all
	}
	first := wakes()
	sorted := slices.Sorted(slices.Values(first))
	for i := range sorted {
		within := 0
		for _, other := range sorted[i:] {
			if other-sorted[i] < time.Second {
				within++
			}
		}
		if within > 30 { // 10 on average; the hash scatters
			t.Errorf("%d groups wake within a second of %v", within, sorted[i])
		}
	}
	now = now.Add(time.Minute)
	if slices.Equal(first, wakes()) {
		t.Error("the same order after the next stop")
	}
	alone := newBudget()
	alone.learn(groups[0], writing, word{stop: 17 * time.Second, who: subscription}, now)
	if wait := alone.pause(groups[0], now); wait != 17*time.Second {
		t.Errorf("a single group is told %v, want Retry-After to the second", wait)
	}
}

// TestStopIsKept: what was promised before Azure said stop is void.
func TestStopIsKept(t *testing.T) {
	b, group := newBudget(), scaleSet(0)
	drain(t, b, reading, group)
	waiting, ok := b.take(group, reading, epoch, time.Minute)
	if !ok || waiting.wait == 0 || !b.kept(group, reading, waiting, epoch) {
		t.Fatalf("%+v, %v", waiting, ok)
	}
	b.learn(group, reading, word{stop: 20 * time.Second}, epoch)
	if b.kept(group, reading, waiting, epoch.Add(waiting.wait)) {
		t.Error("goes in spite of the stop")
	}
	if p, ok := b.take(group, reading, epoch, time.Minute); ok || p.wait != 20*time.Second {
		t.Errorf("%+v, %v, want a refusal at once", p, ok)
	}
	if p, ok := b.take(group, polling, epoch, 0); !ok || p.wait != 0 {
		t.Errorf("%+v, %v: polls of the group were not meant", p, ok)
	}
}

// TestNextPoll: a look a second for as long as one update takes, then as often as Azure allows in the long run.
func TestNextPoll(t *testing.T) {
	b, group, now := newBudget(), scaleSet(0), epoch
	for now.Sub(epoch) < time.Hour {
		every := b.nextPoll(group, now)
		if since := now.Sub(epoch); since < 40*time.Second && every != pollEvery {
			t.Fatalf("after %v: every %v", since, every)
		}
		now = now.Add(every)
		if p, ok := b.take(group, polling, now, 0); !ok || p.wait > 0 {
			t.Fatalf("after %v: a look would wait %v", now.Sub(epoch), p.wait)
		}
	}
	if every := b.nextPoll(group, now); every != 4*time.Second {
		t.Errorf("in the long run: every %v, want 4 s", every)
	}
}

// TestForgets: idle groups and subscriptions cost nothing, and what is remembered is bounded.
func TestForgets(t *testing.T) {
	b := newBudget()
	for i := range 2 * mostSubs {
		group := scaleSet(0)
		group.SubscriptionID = fmt.Sprint(i)
		b.take(group, reading, epoch, 0)
	}
	if len(b.accounts) != mostSubs {
		t.Errorf("%d subscriptions remembered", len(b.accounts))
	}
	b = newBudget()
	for i := range mostGroups + 10 {
		b.take(scaleSet(i), polling, epoch, time.Hour)
	}
	if n := len(b.accounts[subGUID].groups); n != mostGroups {
		t.Errorf("%d groups remembered", n)
	}
	stopped := scaleSet(7)
	b.learn(stopped, writing, word{stop: time.Hour}, epoch)
	later := epoch.Add(30 * time.Minute)
	other := scaleSet(0)
	other.SubscriptionID = "other"
	b.take(other, reading, later, 0)
	if n := len(b.accounts[subGUID].groups); n != 1 {
		t.Errorf("%d groups remembered, want the one that is stopped yet", n)
	}
	b.take(other, reading, epoch.Add(2*time.Hour), 0)
	if len(b.accounts) != 1 {
		t.Errorf("%d subscriptions remembered, want one", len(b.accounts))
	}
}

func TestWords(t *testing.T) {
	const reads, writes, resource = "X-Ms-Ratelimit-Remaining-Subscription-Reads", "X-Ms-Ratelimit-Remaining-Subscription-Writes", "X-Ms-Ratelimit-Remaining-Resource"
	left := func(n float64) *float64 { return &n }
	for _, tt := range []struct {
		name   string
		method string
		status int
		header map[string]string
		body   string
		want   word
	}{
		{name: "nothing", method: "GET", status: 200},
		{name: "reads", method: "GET", status: 200, header: map[string]string{reads: "249", writes: "3"}, want: word{subscription: left(249)}},
		{name: "writes", method: "PATCH", status: 200, header: map[string]string{reads: "249", writes: "3"}, want: word{subscription: left(3)}},
		{
			name: "all instances of ARM", method: "GET", status: 200,
			header: map[string]string{reads: "249", "X-Ms-Ratelimit-Remaining-Subscription-Global-Reads": "7"}, want: word{subscription: left(7)},
		},
		{name: "one resource", method: "PATCH", status: 200, header: map[string]string{resource: "Microsoft.Compute/UpdateVMScaleSetResource;11"}, want: word{group: left(11)}},
		{
			name: "limits of the region", method: "PATCH", status: 200,
			header: map[string]string{resource: "Microsoft.Compute/PutVMScaleSet3Min;29,Microsoft.Compute/PutVMScaleSet30Min;129"}, want: word{region: left(29)},
		},
		{name: "nonsense", method: "GET", status: 200, header: map[string]string{reads: "many", resource: ";;,a;b"}},
		{
			name: "compute says no", method: "PATCH", status: 429, header: map[string]string{"Retry-After": "17", writes: "199"},
			body: `{"error":{"code":"OperationNotAllowed","message":"too many requests have been received for this subscription","details":[{"code":"TooManyRequests","target":"UpdateVMScaleSetResource","message":"{}"}]}}`,
			want: word{subscription: left(199), stop: 17 * time.Second},
		},
		{
			name: "compute says no to all", method: "GET", status: 429, header: map[string]string{"Retry-After": "1200", resource: "Microsoft.Compute/HighCostGet3Min;46"},
			body: `{"code":"OperationNotAllowed","message":"too many","details":[{"code":"TooManyRequests","target":"HighCostGet30Min","message":"{}"}]}`,
			want: word{region: left(46), stop: 20 * time.Minute, who: thisKind},
		},
		{
			name: "ARM says no", method: "GET", status: 429, header: map[string]string{"Retry-After": "10"},
			body: armBody("SubscriptionRequestsThrottled", "Number of 'read' requests for subscription 'x' actor 'y' exceeded. Please try again after '10' seconds."),
			want: word{stop: 10 * time.Second, who: subscription},
		},
		{name: "ARM has none left", method: "PATCH", status: 429, header: map[string]string{writes: "0"}, want: word{subscription: left(0), stop: defaultRetryAfter, who: subscription}},
		{name: "a proxy says no", method: "GET", status: 429, body: "<html>", want: word{stop: defaultRetryAfter}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := &http.Response{StatusCode: tt.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(tt.body))}
			resp.Request, _ = http.NewRequestWithContext(t.Context(), tt.method, "https://arm.example/", nil)
			for k, v := range tt.header {
				resp.Header.Set(k, v)
			}
			if diff := cmp.Diff(tt.want, wordOf(resp), cmp.AllowUnexported(word{})); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != tt.body {
				t.Errorf("body is %q, %v afterwards", body, err)
			}
		})
	}
}

// TestWhoStops: a 429 stops as much as it is about, and no more.
func TestWhoStops(t *testing.T) {
	one, other := scaleSet(1), scaleSet(2)
	for _, tt := range []struct {
		name  string
		lane  lane
		who   scope
		stops string // of one and the other: reads, writes, polls
	}{
		{"a group's reads", reading, thisGroup, "one reads"},
		{"a group's updates", writing, thisGroup, "one writes"},
		{"a group's polls", polling, thisGroup, "one polls"},
		{"updates of the region", writing, thisKind, "one writes, other writes"},
		{"polls of the region", polling, thisKind, "one polls, other polls"},
		{"reads of the subscription", reading, subscription, "one reads, one polls, other reads, other polls"},
		{"writes of the subscription", writing, subscription, "one writes, other writes"},
		{"polls of the subscription are reads", polling, subscription, "one reads, one polls, other reads, other polls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBudget()
			b.learn(one, tt.lane, word{stop: time.Minute, who: tt.who}, epoch)
			var stops []string
			for name, group := range map[string]Group{"one": one, "other": other} {
				for l, what := range []string{reading: "reads", writing: "writes", polling: "polls"} {
					if p, ok := b.take(group, lane(l), epoch, 0); !ok || p.wait > 0 {
						stops = append(stops, name+" "+what)
					}
				}
			}
			slices.SortStableFunc(stops, func(a, b string) int { return strings.Compare(a[:3], b[:3]) })
			if diff := cmp.Diff(tt.stops, strings.Join(stops, ", ")); diff != "" {
				t.Errorf("stops (-want +have):\n%s", diff)
			}
		})
	}
}
