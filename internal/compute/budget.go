package compute

// How many calls Azure lets us make: what Client.Pause answers from.
//
// Azure Resource Manager counts reads and writes per subscription and credential; the compute service behind it counts
// per machine or scale set. Both are token buckets, kept here as Microsoft documents them ("Understand how Azure
// Resource Manager throttles requests", "Compute throttling limits") and corrected by what each answer says. A Client
// has one credential and one budget. Nothing in here waits or looks at a clock.

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"strconv"
	"sync"
	"time"
)

// lane is what a call counts as.
type lane int

const (
	reading lane = iota // a GET of a node group
	writing             // a PATCH
	polling             // a GET of an operation
	lanes
)

// subscriptionLimits are Resource Manager's. Polls count as reads; the lane of their own leaves 10 reads a second, and
// more than half of the bucket, to everything else.
func subscriptionLimits() [lanes]limit {
	return [lanes]limit{
		reading: {size: 250, perSecond: 25},
		writing: {size: 200, perSecond: 10},
		polling: {size: 100, perSecond: 15},
	}
}

// groupLimits are the compute service's for one machine or scale set: "Low Cost Get", "Update" and "Get Operation".
func groupLimits() [lanes]limit {
	return [lanes]limit{
		reading: {size: 36, perSecond: 12.0 / 60},
		writing: {size: 12, perSecond: 4.0 / 60},
		polling: {size: 45, perSecond: 15.0 / 60},
	}
}

// budget is safe for concurrent use.
type budget struct {
	mu       sync.Mutex
	accounts map[string]*account // by subscription
	swept    time.Time
}

// account is one subscription.
type account struct {
	lanes  [lanes]bucket
	groups map[Group]*groupAccount
}

// groupAccount is one node group.
type groupAccount struct {
	lanes [lanes]bucket
	used  time.Time
}

// Bounds of the memory. A group that was quiet for that long has full buckets: forgetting it loses nothing.
const (
	forgetAfter = 10 * time.Minute
	mostGroups  = 20_000 // per subscription; further ones only count for the subscription
	mostSubs    = 1_000
)

func newBudget() *budget {
	return &budget{accounts: map[string]*account{}}
}

func full(limits [lanes]limit, now time.Time) (all [lanes]bucket) {
	for i, l := range limits {
		all[i] = l.bucket(now)
	}
	return all
}

// of finds the accounts of a group, and makes them if need be. A group without a name stands for what is not about a
// node group and counts for the subscription alone. mu is held.
func (b *budget) of(group Group, now time.Time) (*account, *groupAccount) {
	b.sweep(now)
	sub := b.accounts[group.SubscriptionID]
	if sub == nil {
		sub = &account{lanes: full(subscriptionLimits(), now), groups: map[Group]*groupAccount{}}
		if len(b.accounts) < mostSubs {
			b.accounts[group.SubscriptionID] = sub
		}
	}
	own := sub.groups[group]
	if own == nil {
		own = &groupAccount{lanes: full(groupLimits(), now)}
		if group.Name != "" && len(sub.groups) < mostGroups {
			sub.groups[group] = own
		}
	}
	own.used = now
	return sub, own
}

// sweep forgets, now and then, who was quiet for long. mu is held.
func (b *budget) sweep(now time.Time) {
	if now.Sub(b.swept) < forgetAfter {
		return
	}
	b.swept = now
	maps.DeleteFunc(b.accounts, func(_ string, sub *account) bool {
		maps.DeleteFunc(sub.groups, func(_ Group, own *groupAccount) bool {
			return now.Sub(own.used) >= forgetAfter && allFull(&own.lanes, now)
		})
		return len(sub.groups) == 0 && allFull(&sub.lanes, now)
	})
}

func allFull(all *[lanes]bucket, now time.Time) bool {
	for i := range all {
		if !all[i].full(now) {
			return false
		}
	}
	return true
}

// pause is how long the group is to be left alone: until it could be read and written. It reserves nothing, so callers
// are told the same; when it is the subscription that has to recover, each group is told a moment of its own.
func (b *budget) pause(group Group, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	sub := b.accounts[group.SubscriptionID]
	if sub == nil {
		return 0
	}
	var wait time.Duration
	for _, l := range []lane{reading, writing} {
		if w := sub.lanes[l].wait(now); w > 0 {
			wait = max(wait, w+sub.spread(group, sub.lanes[l].perSecond))
		}
		if own := sub.groups[group]; own != nil {
			wait = max(wait, own.lanes[l].wait(now))
		}
	}
	return wait
}

// mostSpread bounds how far apart groups are sent.
const mostSpread = time.Minute

// spread is the group's place among all groups of the subscription, if they went at that rate. It changes with every
// stop, so that it is not the same group that comes last each time.
func (a *account) spread(group Group, perSecond float64) time.Duration {
	others := len(a.groups)
	if _, one := a.groups[group]; one {
		others--
	}
	hash := sha256.Sum256([]byte(group.ResourceID() + "#" + strconv.Itoa(a.lanes[reading].stops+a.lanes[writing].stops)))
	place := float64(binary.BigEndian.Uint32(hash[:])) / (1 << 32) * float64(others) / perSecond
	return min(time.Duration(place*float64(time.Second)), mostSpread)
}

// promise is a call that was let go, after a wait.
type promise struct {
	wait  time.Duration
	stops int
}

// take reserves a call and says after how long it may go, if kept says then that it still may. When that would be more
// than longest, or Azure has said to stop, nothing is reserved, and ok is false; polls may outlast a stop.
func (b *budget) take(group Group, l lane, now time.Time, longest time.Duration) (p promise, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	draws, stopped := b.draws(group, l, now), false
	for _, from := range draws {
		p.wait = max(p.wait, from.wait(now))
		p.stops += from.stops
		stopped = stopped || from.stopped(now) > 0
	}
	if p.wait > longest || (stopped && l != polling) {
		return p, false
	}
	for _, from := range draws {
		from.take(now)
	}
	return p, true
}

// kept reports that Azure has not said since then to stop.
func (b *budget) kept(group Group, l lane, p promise, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	stops := 0
	for _, from := range b.draws(group, l, now) {
		stops += from.stops
	}
	return stops == p.stops
}

// draws are the buckets that a call draws from. mu is held.
func (b *budget) draws(group Group, l lane, now time.Time) []*bucket {
	sub, own := b.of(group, now)
	if l == polling {
		return []*bucket{&sub.lanes[polling], &sub.lanes[reading], &own.lanes[polling]}
	}
	return []*bucket{&sub.lanes[l], &own.lanes[l]}
}

// spend counts one more try of a call that was let go.
func (b *budget) spend(group Group, l lane, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, from := range b.draws(group, l, now) {
		from.spend(now)
	}
}

// pollEvery is the time between two looks at an operation, while there is budget for it.
const pollEvery = time.Second

// nextPoll is when to look at the group's operation again. Azure allows 15 looks a minute in the long run and 45 at
// once: pods wait for these operations, so it is one a second as long as there are some left.
func (b *budget) nextPoll(group Group, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, own := b.of(group, now)
	looks := &own.lanes[polling]
	looks.settle(now)
	every := pollEvery
	switch {
	case looks.tokens < 6:
		every *= 4
	case looks.tokens < 12:
		every *= 2
	}
	return max(every, looks.stopped(now))
}

// learn takes in what an answer of Azure says about the budget.
func (b *budget) learn(group Group, l lane, word word, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	sub, own := b.of(group, now)
	general := l // polls are reads to Resource Manager
	if l == polling {
		general = reading
	}
	if word.subscription != nil {
		sub.lanes[general].lower(now, *word.subscription)
	}
	if word.region != nil {
		sub.lanes[l].lower(now, *word.region)
	}
	if word.group != nil {
		own.lanes[l].follow(now, *word.group)
	}
	if word.stop == 0 {
		return
	}
	switch word.who {
	case subscription:
		sub.lanes[general].stop(now, word.stop)
	case thisKind:
		sub.lanes[l].stop(now, word.stop)
	default:
		own.lanes[l].stop(now, word.stop)
	}
}
