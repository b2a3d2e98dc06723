package assignment

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func set(keys ...string) Set {
	s := Set{}
	for _, k := range keys {
		s[k] = k
	}
	return s
}

func never(string) bool { return false }

func TestForGroup(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		in   Group
		want GroupPlan
	}{
		{name: "nothing"},
		{
			name: "attach in the spelling of the identity",
			in:   Group{Desired: Set{"a": "/A"}},
			want: GroupPlan{Attach: []string{"/A"}},
		},
		{name: "there already", in: Group{Desired: set("a"), Current: set("a")}},
		{name: "somebody else's", in: Group{Current: set("a")}},
		{
			name: "ours, just now unneeded",
			in:   Group{Current: set("a"), Ledger: set("a"), Grace: time.Minute},
			want: GroupPlan{UnneededSince: map[string]time.Time{"a": now}, Next: now.Add(time.Minute)},
		},
		{
			name: "ours, grace over, in Azure's spelling",
			in: Group{
				Current: Set{"a": "/aZ"}, Ledger: set("a"), Grace: time.Minute,
				UnneededSince: map[string]time.Time{"a": now.Add(-time.Minute)},
			},
			want: GroupPlan{Detach: []string{"/aZ"}, UnneededSince: map[string]time.Time{"a": now.Add(-time.Minute)}},
		},
		{
			name: "needed again",
			in: Group{
				Desired: set("a"), Current: set("a"), Ledger: set("a"),
				UnneededSince: map[string]time.Time{"a": now.Add(-time.Hour)},
			},
		},
		{
			name: "immutable",
			in:   Group{Current: set("a"), Ledger: set("a"), Immutable: func(key string) bool { return key == "a" }},
		},
		{
			name: "recreated, and immutable",
			in: Group{
				Desired: set("a"), Current: set("a"), Ledger: set("a"), Stale: map[string]bool{"a": true},
				Immutable: func(key string) bool { return key == "a" },
			},
		},
		{name: "ours, gone", in: Group{Ledger: set("a", "b")}, want: GroupPlan{Forget: []string{"a", "b"}}},
		{
			name: "quarantined",
			in:   Group{Desired: set("a", "b"), Quarantined: map[string]time.Time{"a": now.Add(time.Minute)}},
			want: GroupPlan{Attach: []string{"b"}, Next: now.Add(time.Minute)},
		},
		{
			name: "on probation",
			in:   Group{Desired: set("a", "b"), Quarantined: map[string]time.Time{"a": now}},
			want: GroupPlan{Attach: []string{"b"}, Probation: []string{"a"}},
		},
		{
			name: "detach refused before",
			in:   Group{Current: set("a"), Ledger: set("a"), Quarantined: map[string]time.Time{"a": now.Add(time.Minute)}},
			want: GroupPlan{UnneededSince: map[string]time.Time{"a": now}, Next: now.Add(time.Minute)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Now = now
			if c.in.Immutable == nil {
				c.in.Immutable = never
			}
			if diff := cmp.Diff(c.want, ForGroup(c.in), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodsComeFirst(t *testing.T) {
	g := Group{Desired: set("z"), Early: Set{}, Immutable: never}
	for i := range MaxPerRequest + 1 {
		key := fmt.Sprintf("a%d", i)
		g.Desired[key], g.Early[key] = key, key
	}
	if plan := ForGroup(g); !slices.Contains(plan.Attach, "z") || !plan.More {
		t.Error("what a pod waits for does not fit in, for what none waits for")
	}
}

// TestGroupProperties runs the planner against a simulated Azure that does what it is asked, until
// nothing is left to do.
// TestOneRequest: what is attached leaves room for few of those to detach.
func TestOneRequest(t *testing.T) {
	g := Group{Desired: set("a", "b"), Current: Set{}, Ledger: Set{}, Immutable: never}
	for i := range MaxPerRequest {
		key := fmt.Sprintf("z%d", i)
		g.Current[key], g.Ledger[key] = key, key
	}
	if plan := ForGroup(g); len(plan.Attach) != 2 || len(plan.Detach) != MaxPerRequest-2 || !plan.More {
		t.Errorf("%d to attach and %d to detach in one request", len(plan.Attach), len(plan.Detach))
	}
}

func TestGroupProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := func(label string, most int) Set {
			keys := rapid.SliceOfNDistinct(rapid.IntRange(0, 400), 0, most, rapid.ID[int]).Draw(t, label)
			s := Set{}
			for _, k := range keys {
				s[fmt.Sprint(k)] = fmt.Sprint(k)
			}
			return s
		}
		desired, current, ledger := some("desired", 300), some("current", 300), some("ledger", 300)
		pinned, bad := some("immutable", 20), some("bad", 20)
		stale := map[string]bool{}
		for key := range some("stale", 20) {
			if ledger.Has(key) && current.Has(key) {
				stale[key] = true
			}
		}
		before := maps.Clone(current)
		ours := maps.Clone(ledger)
		g := Group{
			Desired: desired, Current: current, Ledger: ledger, Immutable: pinned.Has, Stale: stale,
			Quarantined: map[string]time.Time{}, Grace: time.Duration(rapid.IntRange(0, 100).Draw(t, "grace")) * time.Second,
			Now: time.Unix(1_000_000, 0),
		}
		for key := range bad {
			g.Quarantined[key] = g.Now.Add(1000 * time.Hour)
		}
		rounds := 0
		for ; ; rounds++ {
			if rounds > 20 {
				t.Fatal("does not converge")
			}
			plan := ForGroup(g)
			check(t, g, plan, ours)
			if plan.Idle() {
				if again := ForGroup(g); !cmp.Equal(plan, again) {
					t.Fatalf("not idempotent: %+v then %+v", plan, again)
				}
				if !plan.Next.IsZero() && plan.Next.Before(g.Now.Add(500*time.Hour)) {
					g.Now, g.UnneededSince = plan.Next, plan.UnneededSince
					continue
				}
				break
			}
			carryOut(g, plan, ours)
			g.UnneededSince = plan.UnneededSince
		}
		for key := range desired {
			if !current.Has(key) && !bad.Has(key) {
				t.Fatalf("%s is needed and not there", key)
			}
			if stale[key] && !bad.Has(key) && !pinned.Has(key) {
				t.Fatalf("%s is needed and stale", key)
			}
		}
		for key := range before {
			if _, had := ours[key]; !had && !current.Has(key) {
				t.Fatalf("%s was somebody else's and is gone", key)
			}
		}
		for key := range current {
			if ledger.Has(key) && !desired.Has(key) && !pinned.Has(key) && !bad.Has(key) {
				t.Fatalf("%s is ours, not needed, and still there", key)
			}
		}
	})
}

// check verifies the properties of every plan.
func check(t *rapid.T, g Group, plan GroupPlan, ours Set) {
	if n := len(plan.Attach) + len(plan.Detach); n > MaxPerRequest || len(plan.Probation) > MaxPerRequest {
		t.Fatalf("%d identities in one request", max(n, len(plan.Probation)))
	}
	for _, key := range plan.Detach {
		if g.Desired.Has(key) && g.Stale[key] {
			continue // it comes back
		}
		if g.Desired.Has(key) || g.Immutable(key) || !ours.Has(key) || !g.Ledger.Has(key) {
			t.Fatalf("detaches %s", key)
		}
	}
	for _, key := range plan.Attach {
		if g.Current.Has(key) || !g.Desired.Has(key) || slices.Contains(plan.Detach, key) {
			t.Fatalf("attaches %s", key)
		}
	}
	if plan.Idle() && plan.More {
		t.Fatal("nothing to do, and more of it")
	}
}

// carryOut simulates Azure and the ledger.
func carryOut(g Group, plan GroupPlan, ours Set) {
	for _, key := range plan.Forget {
		delete(g.Ledger, key)
	}
	for _, key := range slices.Concat(plan.Attach, plan.Probation) {
		g.Ledger[key], ours[key], g.Current[key] = key, key, key
	}
	for _, key := range plan.Detach {
		delete(g.Current, key)
		delete(g.Ledger, key)
		delete(g.Stale, key)
	}
}

// TestNarrow simulates an Azure that refuses requests with bad identities and names all of them or
// none.
func TestNarrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attach := rapid.SliceOfNDistinct(rapid.StringMatching("[a-z]{4}"), 0, 100, rapid.ID[string]).Draw(t, "attach")
		detach := rapid.SliceOfNDistinct(rapid.StringMatching("[0-9]{4}"), 0, 50, rapid.ID[string]).Draw(t, "detach")
		all := slices.Concat(attach, detach)
		if len(all) == 0 {
			return
		}
		bad := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, min(len(all), 5), rapid.ID[string]).Draw(t, "bad")
		names := rapid.Bool().Draw(t, "names them")
		var done, blamed []string
		requests := 0
		for todo := []Request{{attach, detach}}; len(todo) > 0; requests++ {
			req := todo[0]
			todo = todo[1:]
			mentioned := slices.DeleteFunc(slices.Concat(req.Attach, req.Detach), func(id string) bool { return !slices.Contains(bad, id) })
			if len(mentioned) == 0 {
				done = append(done, slices.Concat(req.Attach, req.Detach)...)
				continue
			}
			if !names {
				mentioned = nil
			}
			rest, culprits := Narrow(req, mentioned)
			blamed = append(blamed, culprits...)
			todo = append(rest, todo...)
		}
		slices.Sort(blamed)
		slices.Sort(bad)
		if !slices.Equal(blamed, bad) {
			t.Fatalf("blames %v, bad are %v", blamed, bad)
		}
		if len(done)+len(blamed) != len(all) {
			t.Fatalf("%d done and %d blamed of %d", len(done), len(blamed), len(all))
		}
		if most := 2 + (len(bad)+1)*18; requests > most {
			t.Fatalf("%d requests for %d bad of %d", requests, len(bad), len(all))
		}
	})
}

// An identity that is attached but not verified is attached again if a pod waits for it. Otherwise
// it is added to the next request.
func TestUnverified(t *testing.T) {
	set := func(keys ...string) Set {
		s := Set{}
		for _, key := range keys {
			s[key] = key
		}
		return s
	}
	marks := func(keys ...string) map[string]bool {
		m := map[string]bool{}
		for _, key := range keys {
			m[key] = true
		}
		return m
	}
	now := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		desired, current    Set
		unverified, patient map[string]bool
		quarantined         map[string]time.Time
		attach, probation   []string
	}{
		"a pod waits":      {set("a"), set("a"), marks("a"), nil, nil, []string{"a"}, nil},
		"no pod waits":     {set("a"), set("a"), marks("a"), marks("a"), nil, nil, nil},
		"another request":  {set("a", "b"), set("a"), marks("a"), marks("a"), nil, []string{"b", "a"}, nil},
		"refused":          {set("a"), set("a"), marks("a"), nil, map[string]time.Time{"a": now.Add(time.Second)}, nil, nil},
		"refused for long": {set("a"), set("a"), marks("a"), nil, map[string]time.Time{"a": now}, nil, []string{"a"}},
		"not needed":       {set(), set("a"), marks("a"), nil, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			plan := ForGroup(Group{
				Desired: c.desired, Current: c.current, Unverified: c.unverified, Patient: c.patient, Quarantined: c.quarantined,
				Immutable: func(string) bool { return false }, Now: now,
			})
			if !slices.Equal(plan.Attach, c.attach) || !slices.Equal(plan.Probation, c.probation) || len(plan.Detach) > 0 {
				t.Errorf("%+v", plan)
			}
		})
	}
}
