package turns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func all(*Entry[int]) bool { return true }

// push adds items as "namespace/caller" and returns those that got no place or were evicted.
func push(q *Queue[int], names ...string) (out []string) {
	for i, name := range names {
		namespace, caller, _ := strings.Cut(name, "/")
		added, removed := q.Push(namespace, caller, i)
		if removed != nil {
			out = append(out, fmt.Sprintf("-%s/%s#%d", removed.Namespace, removed.Caller, removed.Item))
		}
		if added == nil {
			out = append(out, fmt.Sprintf("!%s#%d", name, i))
		}
	}
	return out
}

func TestOrder(t *testing.T) {
	q := NewQueue[int](100, 10)
	push(q, "a/1", "a/1", "a/1", "a/2", "a/2", "b/1", "a/3", "c/1", "b/1")
	var order []string
	for e := q.Next(all); e != nil; e = q.Next(all) {
		order = append(order, e.Namespace+"/"+e.Caller)
		q.Take(e)
	}
	if got := strings.Join(order, " "); got != "a/1 b/1 c/1 a/2 b/1 a/3 a/1 a/2 a/1" {
		t.Errorf("got %s", got)
	}
	if q.Len()+len(q.turns)+len(q.namespaces) != 0 {
		t.Errorf("left over: %+v", q)
	}
}

// TestNext checks that callers that do not qualify keep their turn.
func TestNext(t *testing.T) {
	q := NewQueue[int](100, 10)
	push(q, "a/1", "a/2", "b/1")
	notOne := func(e *Entry[int]) bool { return e.Caller != "1" }
	if e := q.Next(notOne); e == nil || e.Namespace != "a" || e.Caller != "2" {
		t.Errorf("got %+v", e)
	} else {
		q.Take(e)
		q.Take(e) // twice is harmless
	}
	if e := q.Next(notOne); e != nil {
		t.Errorf("got %+v", e)
	}
	if e := q.Next(all); e.Namespace != "b" {
		t.Errorf("got %+v: a had its turn", e)
	}
}

func TestFull(t *testing.T) {
	many := func(name string, n int) []string { return slices.Repeat([]string{name}, n) }
	tests := map[string]struct {
		before []string
		then   string
		want   string
	}{
		"of one caller":                     {many("a/1", 4), "a/1", "!a/1#0"},
		"one namespace has all":             {append(many("a/1", 4), "a/2", "a/3"), "b/1", "-a/1#3"},
		"the greedier of two":               {append(many("a/1", 4), "b/1", "b/1"), "c/1", "-a/1#3"},
		"a caller beside a greedy one":      {append(many("a/1", 4), "b/1", "b/1"), "a/2", "-a/1#3"},
		"a further one of the greediest":    {append(many("a/1", 3), "b/1", "b/1", "b/1"), "a/1", "!a/1#0"},
		"one less than the greediest":       {append(many("a/1", 3), "b/1", "b/1", "c/1"), "b/1", "!b/1#0"},
		"two less than the greediest":       {append(many("a/1", 3), "a/2", "b/1", "b/1"), "b/1", "-a/1#2"},
		"all alike":                         {[]string{"a/1", "b/1", "c/1", "d/1", "e/1", "f/1"}, "g/1", "!g/1#0"},
		"pods of one namespace, all alike":  {[]string{"a/1", "a/2", "a/3", "a/4", "a/5", "a/6"}, "a/7", "!a/7#0"},
		"many pods do not count for more":   {[]string{"a/1", "a/2", "a/3", "a/4", "a/5", "b/1"}, "b/1", "-a/1#0"},
		"the newest of many pods' requests": {[]string{"a/1", "a/2", "a/2", "a/1", "a/2", "a/3"}, "b/1", "-a/2#4"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			q := NewQueue[int](6, 4)
			if out := push(q, tt.before...); out != nil {
				t.Fatalf("out: %v", out)
			}
			if got := strings.Join(push(q, tt.then), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestProperties checks with random operations that the bounds are kept, that no entry is lost, and
// that a namespace with fewer entries than its share always gets a place.
func TestProperties(t *testing.T) {
	const most, mostPerCaller, namespaces = 12, 5, 3
	rapid.Check(t, func(t *rapid.T) {
		q := NewQueue[int](most, mostPerCaller)
		have := map[*Entry[int]]bool{}
		for i := range rapid.IntRange(1, 200).Draw(t, "steps") {
			ns := fmt.Sprint(rapid.IntRange(1, namespaces).Draw(t, "namespace"))
			caller := fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "caller"))
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				if e := q.Next(all); e != nil {
					q.Take(e)
					delete(have, e)
				}
			case 1:
				for e := range have {
					if !q.Remove(e) || q.Remove(e) {
						t.Fatal("remove")
					}
					delete(have, e)
					break
				}
			default:
				inNamespace, ofCaller := 0, 0
				for e := range have {
					if e.Namespace == ns {
						inNamespace++
						if e.Caller == caller {
							ofCaller++
						}
					}
				}
				added, removed := q.Push(ns, caller, i)
				if removed != nil && (!have[removed] || added == nil) {
					t.Fatal("removed for nothing")
				}
				delete(have, removed)
				if added != nil {
					have[added] = true
				} else if inNamespace < most/namespaces && ofCaller < mostPerCaller {
					t.Fatalf("namespace %s has %d and got no place", ns, inNamespace)
				}
			}
			if q.Len() != len(have) || q.Len() > most || len(q.turns) != len(q.namespaces) {
				t.Fatalf("%d entries, want %d; %d turns of %d namespaces", q.Len(), len(have), len(q.turns), len(q.namespaces))
			}
		}
		if n := len(q.Clear()); n != len(have) || q.Len() != 0 || q.Next(all) != nil {
			t.Fatalf("cleared %d of %d", n, len(have))
		}
	})
}
