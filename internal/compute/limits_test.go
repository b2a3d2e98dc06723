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

// drain reserves calls until the next would have to wait.
func drain(t *testing.T, l *limits, c class, groups ...Group) int {
	t.Helper()
	for n := range 10_000 {
		if wait, ok := l.reserve(groups[n%len(groups)], c, epoch, 0); !ok || wait > 0 {
			return n
		}
	}
	t.Fatal("no end")
	return 0
}

func TestLimitSizes(t *testing.T) {
	var many []Group
	for i := range 100 {
		many = append(many, scaleSet(i))
	}
	for _, tt := range []struct {
		name   string
		class  class
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
			if n := drain(t, newLimits(), tt.class, tt.groups...); n != tt.want {
				t.Errorf("%d at once, want %d", n, tt.want)
			}
		})
	}
	b := newLimits()
	drain(t, b, polling, many...)
	if n := drain(t, b, reading, many...); n != 150 {
		t.Errorf("%d reads while polls have all of theirs, want 150", n)
	}
}

// TestPauseReserves: calls of pause change nothing.
func TestPauseReserves(t *testing.T) {
	b := newLimits()
	for range 1000 {
		if wait := b.pause(scaleSet(0), epoch, epoch); wait != 0 {
			t.Fatalf("nothing was used: %v", wait)
		}
	}
	if len(b.subscriptions) != 0 {
		t.Error("asking costs memory")
	}
	drain(t, b, writing, scaleSet(0))
	first := b.pause(scaleSet(0), epoch, epoch)
	if second := b.pause(scaleSet(0), epoch, epoch); first != 15*time.Second || second != first {
		t.Errorf("%v, then %v, want 15 s: 4 updates a minute", first, second)
	}
	if wait := b.pause(scaleSet(1), epoch, epoch); wait != 0 {
		t.Errorf("another scale set: %v", wait)
	}
}

// TestHeaders: Azure's count of remaining calls applies if it is less than the local one. Each
// instance of Resource Manager has its own count.
func TestHeaders(t *testing.T) {
	b, group := newLimits(), scaleSet(0)
	b.learn(group, reading, answered{left: new(3)}, epoch)
	b.learn(group, reading, answered{left: new(11_999)}, epoch)
	if n := drain(t, b, reading, group); n != 3 {
		t.Errorf("%d reads, want the 3 that Azure left", n)
	}
	b.learn(group, writing, answered{left: new(0)}, epoch)
	if wait, ok := b.reserve(group, writing, epoch, time.Second); !ok || wait != 100*time.Millisecond {
		t.Errorf("a write after %v, %v, want 100 ms: 10 a second", wait, ok)
	}
}

// TestSpread: when a subscription recovers, its groups resume one after another, about as fast as
// its limit grows.
func TestSpread(t *testing.T) {
	b := newLimits()
	var groups []Group
	for i := range 200 {
		groups = append(groups, scaleSet(i))
		b.reserve(groups[i], reading, epoch, 0)
	}
	b.learn(groups[0], writing, answered{retryAfter: 17 * time.Second, scope: wholeSubscription}, epoch)
	within := map[time.Duration]int{}
	for _, g := range groups {
		wait := b.pause(g, epoch, epoch)
		if wait < 17*time.Second || wait > 37*time.Second {
			t.Fatalf("%s is told %v, want 17 s and up to 20 s more", g, wait)
		}
		within[wait.Truncate(time.Second)]++
	}
	for second, n := range within {
		if n > 35 { // 10 on average
			t.Errorf("%d groups wake within a second of %v", n, second)
		}
	}
	// Calls without a pause first get their turns at the limit's rate.
	after := epoch.Add(17 * time.Second)
	for n := range 20 {
		wait, ok := b.reserve(groups[n], writing, after, time.Minute)
		if want := time.Duration(n) * time.Second / 10; !ok || wait < want-time.Second/10 || wait > want {
			t.Errorf("write %d after the stop goes after %v, %v, want %v", n, wait, ok, want)
		}
	}
	alone := newLimits()
	alone.learn(groups[0], writing, answered{retryAfter: 17 * time.Second, scope: wholeSubscription}, epoch)
	if wait := alone.pause(groups[0], epoch, epoch); wait != 17*time.Second {
		t.Errorf("a single group is told %v, want Retry-After to the second", wait)
	}
}

// TestQueue: if the subscription has no room, groups take turns in the order of their first call,
// at its rate. An unused turn passes on.
func TestQueue(t *testing.T) {
	b := newLimits()
	var others []Group
	for i := range 20 {
		others = append(others, scaleSet(100+i))
	}
	drain(t, b, writing, others...)
	for i, want := range []time.Duration{100, 200, 300} {
		if wait := b.pause(scaleSet(i), epoch, epoch); wait != want*time.Millisecond {
			t.Errorf("group %d is told %v, want %v ms", i, wait, want)
		}
	}
	later := epoch.Add(200 * time.Millisecond)
	if wait := b.pause(scaleSet(2), epoch, later); wait != 100*time.Millisecond {
		t.Errorf("the last one asks early and is told %v, want 100 ms: it does not overtake", wait)
	}
	if first, second := b.pause(scaleSet(0), epoch, later), b.pause(scaleSet(1), epoch, later); first+second != 0 {
		t.Errorf("the first two are told %v and %v, want their turn", first, second)
	}
	if _, ok := b.reserve(scaleSet(0), writing, later, 0); !ok {
		t.Error("no write in its turn")
	}
	if wait := b.pause(scaleSet(1), epoch, later.Add(time.Second)); wait != 0 {
		t.Errorf("the second one has lost its turn: %v", wait)
	}
	if wait := b.pause(scaleSet(3), epoch, later.Add(time.Minute)); wait != 0 || len(b.subscriptions[subGUID].queue) != 1 {
		t.Errorf("turns that were not used are kept: %v, %d in the queue", wait, len(b.subscriptions[subGUID].queue))
	}
}

// TestRefusedKeepsItsPlace: a group whose write Azure refuses is next once Retry-After has passed,
// even if others came to the queue in between.
func TestRefusedKeepsItsPlace(t *testing.T) {
	b := newLimits()
	var others []Group
	for i := range 20 {
		others = append(others, scaleSet(100+i))
	}
	drain(t, b, writing, others...)
	for i := range 60 {
		b.pause(scaleSet(i), epoch, epoch)
	}
	sent := epoch.Add(100 * time.Millisecond)
	if wait := b.pause(scaleSet(0), epoch, sent); wait != 0 {
		t.Fatalf("waits %v in its turn", wait)
	}
	if _, ok := b.reserve(scaleSet(0), writing, sent, 0); !ok {
		t.Fatal("no write in its turn")
	}
	b.learn(scaleSet(0), writing, answered{retryAfter: 3 * time.Second}, sent)
	if wait := b.pause(scaleSet(1), epoch, sent); wait != 100*time.Millisecond {
		t.Errorf("the next one waits %v, want 100 ms: it is not affected", wait)
	}
	if wait := b.pause(scaleSet(0), epoch, sent.Add(time.Second)); wait != 2*time.Second {
		t.Errorf("waits %v, want the rest of Retry-After", wait)
	}
	for i := 1; i <= 30; i++ { // these have used their turns meanwhile
		now := epoch.Add(time.Duration(i+1) * 100 * time.Millisecond)
		if wait := b.pause(scaleSet(i), epoch, now); wait != 0 {
			t.Fatalf("group %d waits %v", i, wait)
		}
		if _, ok := b.reserve(scaleSet(i), writing, now, 0); !ok {
			t.Fatalf("group %d: no write", i)
		}
		b.learn(scaleSet(i), writing, answered{}, now)
	}
	if wait := b.pause(scaleSet(0), epoch, sent.Add(3100*time.Millisecond)); wait > 100*time.Millisecond {
		t.Errorf("waits %v more, want at most 100 ms: it was first", wait)
	}
	if wait := b.pause(scaleSet(1), epoch, sent.Add(3100*time.Millisecond)); wait < 3*time.Second {
		t.Errorf("one that has had its turn waits %v, want the end of the queue", wait)
	}
}

// TestLongestWaitFirst: a group whose pods have waited longer goes before those that called before,
// and groups without waiting pods go last.
func TestLongestWaitFirst(t *testing.T) {
	b := newLimits()
	var others []Group
	for i := range 20 {
		others = append(others, scaleSet(100+i))
	}
	drain(t, b, writing, others...)
	for i := range 40 {
		b.pause(scaleSet(i), time.Time{}, epoch)
	}
	for i := range 30 {
		b.pause(scaleSet(i), epoch.Add(-time.Second), epoch)
	}
	if wait := b.pause(scaleSet(35), time.Time{}, epoch); wait != 3600*time.Millisecond {
		t.Errorf("one that no pod waits for waits %v, want 3.6 s", wait)
	}
	if wait := b.pause(scaleSet(50), epoch.Add(-2*time.Second), epoch); wait != 100*time.Millisecond {
		t.Errorf("the one that has waited longest waits %v, want 100 ms", wait)
	}
	if wait := b.pause(scaleSet(51), epoch, epoch); wait != 3200*time.Millisecond {
		t.Errorf("the newest waits %v, want 3.2 s", wait)
	}
	if wait := b.pause(scaleSet(0), epoch.Add(-time.Second), epoch); wait != 200*time.Millisecond {
		t.Errorf("the first of the others waits %v, want 200 ms", wait)
	}
	if wait := b.pause(scaleSet(1), epoch.Add(-time.Hour), epoch); wait != 100*time.Millisecond {
		t.Errorf("one that turns out to wait longest waits %v, want 100 ms", wait)
	}
}

// TestRetryAfterAndNoLonger: once Retry-After has passed, the group's calls proceed normally.
func TestRetryAfterAndNoLonger(t *testing.T) {
	for _, c := range []class{reading, writing, polling} {
		b, group := newLimits(), scaleSet(0)
		b.learn(group, c, answered{retryAfter: 3 * time.Second}, epoch)
		if wait, ok := b.reserve(group, c, epoch.Add(time.Second), time.Minute); wait != 2*time.Second || ok != (c == polling) {
			t.Errorf("class %d, meanwhile: %v, %v", c, wait, ok)
		}
		after := epoch.Add(3 * time.Second)
		if wait := b.pause(group, epoch, after); wait != 0 {
			t.Errorf("class %d: pause %v afterwards", c, wait)
		}
		for range 5 {
			if wait, ok := b.reserve(group, c, after, 0); !ok || wait != 0 {
				t.Errorf("class %d, afterwards: %v, %v", c, wait, ok)
			}
		}
		if next := b.nextPoll(group, after); next != pollEvery {
			t.Errorf("class %d: next poll after %v", c, next)
		}
	}
}

// TestStopWhileWaiting: a call that waits for its turn is not sent if Azure closes the limit
// meanwhile.
func TestStopWhileWaiting(t *testing.T) {
	b, group := newLimits(), scaleSet(0)
	drain(t, b, reading, group)
	wait, ok := b.reserve(group, reading, epoch, time.Minute)
	if !ok || wait == 0 || b.closed(group, reading, epoch) {
		t.Fatalf("%v, %v", wait, ok)
	}
	b.learn(group, reading, answered{retryAfter: 20 * time.Second}, epoch)
	if !b.closed(group, reading, epoch.Add(wait)) {
		t.Error("goes in spite of the stop")
	}
	if wait, ok := b.reserve(group, reading, epoch, time.Minute); ok || wait < 20*time.Second {
		t.Errorf("%v, %v, want a refusal at once", wait, ok)
	}
	if wait, ok := b.reserve(group, polling, epoch, 0); !ok || wait != 0 {
		t.Errorf("%v, %v: polls of the group were not meant", wait, ok)
	}
}

// TestNextPoll: a poll every second for as long as one update takes, then at Azure's long-term
// rate.
func TestNextPoll(t *testing.T) {
	b, group, now := newLimits(), scaleSet(0), epoch
	for now.Sub(epoch) < time.Hour {
		every := b.nextPoll(group, now)
		if since := now.Sub(epoch); since < 40*time.Second && every != pollEvery {
			t.Fatalf("after %v: every %v", since, every)
		}
		now = now.Add(every)
		if wait, ok := b.reserve(group, polling, now, 0); !ok || wait > 0 {
			t.Fatalf("after %v: a look would wait %v", now.Sub(epoch), wait)
		}
	}
	if every := b.nextPoll(group, now); every != 4*time.Second {
		t.Errorf("in the long run: every %v, want 4 s", every)
	}
}

// TestForgets: idle groups and subscriptions use no memory, and the number of remembered ones is
// bounded.
func TestForgets(t *testing.T) {
	b := newLimits()
	for i := range 2 * mostSubs {
		group := scaleSet(0)
		group.SubscriptionID = fmt.Sprint(i)
		b.reserve(group, reading, epoch, 0)
	}
	if len(b.subscriptions) != mostSubs {
		t.Errorf("%d subscriptions remembered", len(b.subscriptions))
	}
	b = newLimits()
	for i := range mostGroups + 10 {
		b.reserve(scaleSet(i), polling, epoch, time.Hour)
	}
	if n := len(b.subscriptions[subGUID].groups); n != mostGroups {
		t.Errorf("%d groups remembered", n)
	}
	b.learn(scaleSet(7), writing, answered{retryAfter: longestPause}, epoch.Add(time.Hour))
	later := epoch.Add(forgetAfter)
	other := scaleSet(0)
	other.SubscriptionID = "other"
	b.reserve(other, reading, later, 0)
	if n := len(b.subscriptions[subGUID].groups); n != 1 || !b.closed(scaleSet(7), writing, later) {
		t.Errorf("%d groups remembered, want the one that is stopped yet", n)
	}
	b.reserve(other, reading, later.Add(2*forgetAfter), 0)
	if len(b.subscriptions) != 1 {
		t.Errorf("%d subscriptions remembered, want one", len(b.subscriptions))
	}
}

func TestReadAnswer(t *testing.T) {
	const reads, writes = "X-Ms-Ratelimit-Remaining-Subscription-Reads", "X-Ms-Ratelimit-Remaining-Subscription-Writes"
	for _, tt := range []struct {
		name   string
		method string
		status int
		header map[string]string
		body   string
		want   answered
	}{
		{name: "nothing", method: "GET", status: 200},
		{name: "reads", method: "GET", status: 200, header: map[string]string{reads: "249", writes: "3"}, want: answered{left: new(249)}},
		{name: "writes", method: "PATCH", status: 200, header: map[string]string{reads: "249", writes: "3"}, want: answered{left: new(3)}},
		{
			name: "all instances of ARM", method: "GET", status: 200,
			header: map[string]string{reads: "249", "X-Ms-Ratelimit-Remaining-Subscription-Global-Reads": "7"}, want: answered{left: new(7)},
		},
		{name: "nonsense", method: "GET", status: 200, header: map[string]string{reads: "many"}},
		{
			name: "compute says no", method: "PATCH", status: 429, header: map[string]string{"Retry-After": "17", writes: "199"},
			body: `{"error":{"code":"OperationNotAllowed","message":"too many requests have been received for this subscription","details":[{"code":"TooManyRequests","target":"UpdateVMScaleSetResource","message":"{}"}]}}`,
			want: answered{left: new(199), retryAfter: 17 * time.Second},
		},
		{
			name: "compute says no to all", method: "GET", status: 429, header: map[string]string{"Retry-After": "1200"},
			body: `{"code":"OperationNotAllowed","message":"too many","details":[{"code":"TooManyRequests","target":"HighCostGet30Min","message":"{}"}]}`,
			want: answered{retryAfter: 20 * time.Minute, scope: wholeRegion},
		},
		{
			name: "ARM says no", method: "GET", status: 429, header: map[string]string{"Retry-After": "10"},
			body: armBody("SubscriptionRequestsThrottled", "Number of 'read' requests for subscription 'x' actor 'y' exceeded. Please try again after '10' seconds."),
			want: answered{retryAfter: 10 * time.Second, scope: wholeSubscription},
		},
		{name: "ARM has none left", method: "PATCH", status: 429, header: map[string]string{writes: "0"}, want: answered{left: new(0), retryAfter: defaultRetryAfter, scope: wholeSubscription}},
		{name: "a proxy says no", method: "GET", status: 429, body: "<html>", want: answered{retryAfter: defaultRetryAfter}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := &http.Response{StatusCode: tt.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(tt.body))}
			resp.Request, _ = http.NewRequestWithContext(t.Context(), tt.method, "https://arm.example/", nil)
			for k, v := range tt.header {
				resp.Header.Set(k, v)
			}
			if diff := cmp.Diff(tt.want, readAnswer(resp), cmp.AllowUnexported(answered{})); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != tt.body {
				t.Errorf("body is %q, %v afterwards", body, err)
			}
		})
	}
}

// TestWhoStops: a 429 closes only the limit that it is about.
func TestWhoStops(t *testing.T) {
	one, other := scaleSet(1), scaleSet(2)
	for _, tt := range []struct {
		name  string
		class class
		scope scope
		stops string // of one and the other: reads, writes, polls
	}{
		{"a group's reads", reading, oneGroup, "one reads"},
		{"a group's updates", writing, oneGroup, "one writes"},
		{"a group's polls", polling, oneGroup, "one polls"},
		{"updates of the region", writing, wholeRegion, "one writes, other writes"},
		{"polls of the region", polling, wholeRegion, "one polls, other polls"},
		{"reads of the subscription", reading, wholeSubscription, "one reads, one polls, other reads, other polls"},
		{"writes of the subscription", writing, wholeSubscription, "one writes, other writes"},
		{"polls of the subscription are reads", polling, wholeSubscription, "one reads, one polls, other reads, other polls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newLimits()
			b.learn(one, tt.class, answered{retryAfter: time.Minute, scope: tt.scope}, epoch)
			var stops []string
			for name, group := range map[string]Group{"one": one, "other": other} {
				for l, what := range []string{reading: "reads", writing: "writes", polling: "polls"} {
					if wait, ok := b.reserve(group, class(l), epoch, 0); !ok || wait > 0 {
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
