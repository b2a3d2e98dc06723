// Azure's limits on calls, which Client.Pause answers from.
//
// Azure Resource Manager counts reads and writes per subscription and credential. The compute
// service behind it counts per VM or scale set. Both use token buckets of documented sizes
// ("Understand how Azure Resource Manager throttles requests", "Compute throttling limits"). A 429
// closes the affected limit for exactly as long as Retry-After says. A Client has one credential
// and so one set of limits. Nothing in this file waits or reads a clock.

package compute

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// class is the kind of a call for the limits.
type class int

const (
	reading class = iota // a GET of a node group
	writing              // a PATCH
	polling              // a GET of an operation
	classes
)

// limit is one of Azure's token buckets, and the time until which Azure has closed it.
type limit struct {
	bucket *rate.Limiter
	closed time.Time
}

func newLimit(size int, perSecond rate.Limit) *limit {
	return &limit{bucket: rate.NewLimiter(perSecond, size)}
}

// subscriptionLimits returns the limits of Resource Manager. Polls also count as reads. Their own
// limit leaves 10 reads a second, and more than half of the bucket, to other calls.
func subscriptionLimits() [classes]*limit {
	return [classes]*limit{reading: newLimit(250, 25), writing: newLimit(200, 10), polling: newLimit(100, 15)}
}

// groupLimits returns the compute service's limits for one VM or scale set: "Low Cost Get",
// "Update" and "Get Operation".
func groupLimits() [classes]*limit {
	return [classes]*limit{reading: newLimit(36, 12./60), writing: newLimit(12, 4./60), polling: newLimit(45, 15./60)}
}

// opens returns the earliest time at which a call may use the limit.
func (l *limit) opens(now time.Time) time.Time {
	if l.closed.After(now) {
		return l.closed
	}
	return now
}

// isClosed reports whether Azure has closed the limit until later than now.
func (l *limit) isClosed(now time.Time) bool { return l.closed.After(now) }

// tokens returns how many calls may go as soon as the limit is open. A negative number counts the
// calls that are waiting already.
func (l *limit) tokens(now time.Time) float64 { return l.bucket.TokensAt(l.opens(now)) }

// delay returns how long until a call may go. It reserves nothing.
func (l *limit) delay(now time.Time) time.Duration { return l.delayOf(now, 1) }

// delayOf returns how long until the last of n calls may go.
func (l *limit) delayOf(now time.Time, calls int) time.Duration {
	delay := l.opens(now).Sub(now)
	if missing := float64(calls) - l.tokens(now); missing > 0 {
		delay += time.Duration(missing / float64(l.bucket.Limit()) * float64(time.Second))
	}
	return delay
}

// reserve draws tokens. A call that draws one may go after the delay computed before.
func (l *limit) reserve(now time.Time, tokens int) { l.bucket.ReserveN(l.opens(now), tokens) }

// lower sets the tokens to Azure's count of remaining calls, if that is less.
func (l *limit) lower(now time.Time, left int) {
	if surplus := int(l.tokens(now)) - left; surplus > 0 && !l.isClosed(now) {
		l.reserve(now, surplus)
	}
}

// close blocks all calls for that long.
func (l *limit) close(now time.Time, d time.Duration) {
	if until := now.Add(d); until.After(l.closed) {
		l.closed = until
	}
}

// drain leaves one call for the end of the closure, so that groups that share the limit resume at
// its rate.
func (l *limit) drain(now time.Time) {
	if surplus := int(l.tokens(now)) - 1; surplus > 0 {
		l.reserve(now, surplus)
	}
}

// limits holds the limits of all subscriptions. It is safe for concurrent use.
type limits struct {
	mu            sync.Mutex
	subscriptions map[string]*account
	swept         time.Time
}

// account holds the limits of one subscription.
type account struct {
	limits [classes]*limit
	groups map[Group]*groupAccount
	used   time.Time
	// queue holds the groups that wait for an update, in the order of their places.
	queue  []*groupAccount
	queued uint64 // how many were ever in the queue
	// running is how many updates of VMs are in progress.
	running int
}

// groupAccount holds the limits of one node group.
type groupAccount struct {
	limits [classes]*limit
	used   time.Time
	// place is the group's in the queue. A group whose own limit is closed is not in the queue, but
	// keeps its place. due is the time of the group's turn.
	place place
	due   time.Time
	turn  bool // its turn has come
	// sent is the place from which the write in progress was sent. A refused write gets it back.
	sent place
}

// place orders the queue: by since when pods wait, and then by the first call. Groups without
// waiting pods, which have no since, are last. The zero value means no place.
type place struct {
	since  time.Time
	number uint64
}

func (p place) compare(q place) int {
	if p.since.IsZero() != q.since.IsZero() {
		return q.since.Compare(p.since)
	}
	return cmp.Or(p.since.Compare(q.since), cmp.Compare(p.number, q.number))
}

// Bounds of the memory. After forgetAfter without a call every bucket is full and every Retry-After
// has passed, so nothing is lost.
const (
	forgetAfter = longestPause + time.Hour/2
	mostGroups  = 20_000 // per subscription; further ones only count for the subscription
	mostSubs    = 1_000
)

func newLimits() *limits { return &limits{subscriptions: map[string]*account{}} }

// of returns the limits of a subscription and of a group and creates them if needed. A group
// without a name represents calls about no node group. The caller must hold mu.
func (l *limits) of(group Group, now time.Time) (*account, *groupAccount) {
	l.sweep(now)
	sub := l.subscriptions[group.SubscriptionID]
	if sub == nil {
		sub = &account{limits: subscriptionLimits(), groups: map[Group]*groupAccount{}}
		if len(l.subscriptions) < mostSubs {
			l.subscriptions[group.SubscriptionID] = sub
		}
	}
	own := sub.groups[group]
	if own == nil {
		own = &groupAccount{limits: groupLimits()}
		if group.Name != "" && len(sub.groups) < mostGroups {
			sub.groups[group] = own
		}
	}
	sub.used, own.used = now, now
	return sub, own
}

// sweep occasionally drops subscriptions and groups without recent calls. The caller must hold mu.
func (l *limits) sweep(now time.Time) {
	if now.Sub(l.swept) < forgetAfter {
		return
	}
	l.swept = now
	maps.DeleteFunc(l.subscriptions, func(_ string, sub *account) bool {
		maps.DeleteFunc(sub.groups, func(_ Group, own *groupAccount) bool { return now.Sub(own.used) >= forgetAfter })
		return now.Sub(sub.used) >= forgetAfter
	})
}

// drawn returns the limits that a call counts against. The caller must hold mu.
func (l *limits) drawn(group Group, c class, now time.Time) []*limit {
	sub, own := l.of(group, now)
	if c == polling {
		return []*limit{sub.limits[polling], sub.limits[reading], own.limits[polling]}
	}
	return []*limit{sub.limits[c], own.limits[c]}
}

// The cost of a group's update to the subscription: a write and some reads. A turn that is not used
// within turnTime, or not requested for that long after it was due, passes to another group.
const (
	readsPerUpdate = 2
	turnTime       = 15 * time.Second
)

// pause returns how long to leave the group alone, or 0 if it may be read and written now. It
// reserves nothing. If the subscription has no room for another update, the groups whose pods have
// waited since the earliest time are first, and those without waiting pods, whose since is zero,
// are last. Each proceeds when its turn has come, at the rate of the limits.
func (l *limits) pause(group Group, since, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.subscriptions[group.SubscriptionID] == nil {
		return 0
	}
	sub, own := l.of(group, now)
	if wait := max(own.limits[reading].delay(now), own.limits[writing].delay(now)); wait > 0 {
		sub.stepOut(own)
		own.due = now.Add(wait)
		return wait
	}
	ahead := sub.enqueue(own, since, now)
	wait := max(sub.limits[reading].delayOf(now, readsPerUpdate*(ahead+1)), sub.limits[writing].delayOf(now, ahead+1))
	if own.turn && !sub.limits[reading].isClosed(now) && !sub.limits[writing].isClosed(now) {
		return 0
	}
	own.turn, own.due = wait == 0, now.Add(wait)
	return wait
}

// enqueue adds a group to the queue if necessary and returns how many groups are ahead of it. A
// group that only reads gets the place of a waiting one as soon as pods wait for it.
func (a *account) enqueue(own *groupAccount, since, now time.Time) int {
	for len(a.queue) > 0 && a.queue[0] != own && a.queue[0].late(now) {
		a.leave(a.queue[0])
	}
	at, queued := a.find(own)
	switch {
	case own.place == (place{}) || !queued && own.late(now):
		a.queued++
		own.place = place{since, a.queued}
	case place{since, own.place.number}.compare(own.place) < 0:
		if queued {
			a.queue = slices.Delete(a.queue, at, at+1)
		}
		own.place.since, queued = since, false
	}
	if !queued {
		at, _ = a.find(own)
		a.queue = slices.Insert(a.queue, at, own)
	}
	return at
}

// late reports whether the group has not used its turn.
func (g *groupAccount) late(now time.Time) bool { return now.Sub(g.due) > turnTime }

// stepOut removes a group from the queue. It keeps its place.
func (a *account) stepOut(own *groupAccount) {
	if at, ok := a.find(own); ok {
		a.queue = slices.Delete(a.queue, at, at+1)
	}
	own.turn = false
}

// leave removes a group from the queue and returns the place that it had.
func (a *account) leave(own *groupAccount) (had place) {
	a.stepOut(own)
	had, own.place = own.place, place{}
	return had
}

func (a *account) find(own *groupAccount) (int, bool) {
	return slices.BinarySearchFunc(a.queue, own.place, func(g *groupAccount, p place) int { return g.place.compare(p) })
}

// reserve counts a call and returns after how long it may go, unless Azure closes a limit
// meanwhile. If that is more than longest, or Azure has closed a limit, it counts nothing and ok is
// false. Polls wait for a closed limit.
func (l *limits) reserve(group Group, c class, now time.Time, longest time.Duration) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	drawn, closed := l.drawn(group, c, now), false
	for _, from := range drawn {
		wait = max(wait, from.delay(now))
		closed = closed || from.isClosed(now)
	}
	if wait > longest || closed && c != polling {
		return wait, false
	}
	for _, from := range drawn {
		from.reserve(now, 1)
	}
	if c == writing {
		sub, own := l.of(group, now)
		own.sent = sub.leave(own)
	}
	return wait, true
}

// closed reports whether Azure has closed a limit of such a call.
func (l *limits) closed(group Group, c class, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, from := range l.drawn(group, c, now) {
		if from.isClosed(now) {
			return true
		}
	}
	return false
}

// pollEvery is the time between two polls of an operation unless the limit is close.
const pollEvery = time.Second

// nextPoll returns when to poll the group's operation again. Azure allows 15 polls a minute in the
// long run and 45 at once. Pods wait for the operation, so it polls every second until few polls
// are left.
func (l *limits) nextPoll(group Group, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, own := l.of(group, now)
	polls := own.limits[polling]
	if polls.isClosed(now) {
		return polls.delay(now)
	}
	switch left := polls.tokens(now); {
	case left < 6:
		return 4 * pollEvery
	case left < 12:
		return 2 * pollEvery
	default:
		return pollEvery
	}
}

// readsForPolls is how many reads a second may be spent on detecting the end of VM updates. The
// rest is for the reads before updates.
const readsForPolls = 15

// nextRead returns when to read a VM again whose update is in progress. The interval is a second.
// It grows with the number of VM updates in the subscription, and when the VM's own read limit is
// nearly used up.
func (l *limits) nextRead(group Group, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	sub, own := l.of(group, now)
	every := max(pollEvery, time.Duration(sub.running)*time.Second/readsForPolls)
	switch left := own.limits[reading].tokens(now); {
	case left < 6:
		every = max(every, 4*pollEvery)
	case left < 12:
		every = max(every, 2*pollEvery)
	}
	return every
}

// running counts a VM update that starts (1) or ends (-1).
func (l *limits) running(group Group, change int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sub, _ := l.of(group, time.Now())
	sub.running += change
}

// learn updates the limits from a response of Azure.
func (l *limits) learn(group Group, c class, said answered, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sub, own := l.of(group, now)
	general := c // Resource Manager counts polls as reads
	if c == polling {
		general = reading
	}
	if said.left != nil {
		sub.limits[general].lower(now, *said.left)
	}
	if c == writing {
		if said.retryAfter != 0 && own.place == (place{}) {
			own.place, own.due = own.sent, now.Add(said.retryAfter)
		}
		own.sent = place{}
	}
	if said.retryAfter == 0 {
		return
	}
	refused := own.limits[c]
	switch said.scope {
	case wholeSubscription:
		refused = sub.limits[general]
	case wholeRegion:
		refused = sub.limits[c]
	}
	refused.close(now, said.retryAfter)
	if said.scope != oneGroup {
		refused.drain(now)
	}
}
