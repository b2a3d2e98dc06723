// The steps of histories.

package model

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// step is one thing that happens. The meaning of its numbers depends on op. A step that is
// impossible in the current state does nothing.
type step struct {
	Op      string
	A, B, C int
}

// op is a kind of step: what it does, and how often it is drawn. do returns a description, or "".
type op struct {
	name   string
	weight int
	do     func(w *world, s step) string
}

func pick[T any](list []T, n int) T { return list[n%len(list)] }

// histories generates lists of steps.
func histories() *rapid.Generator[[]step] {
	var names []string
	for _, o := range ops() {
		names = append(names, slices.Repeat([]string{o.name}, o.weight)...)
	}
	one := rapid.Custom(func(t *rapid.T) step {
		return step{
			Op: rapid.SampledFrom(names).Draw(t, "op"),
			A:  rapid.IntRange(0, 9).Draw(t, "a"), B: rapid.IntRange(0, 9).Draw(t, "b"), C: rapid.IntRange(0, 9).Draw(t, "c"),
		}
	})
	// A list of lists, because rapid's lists are short: about six elements.
	return rapid.Map(rapid.SliceOfN(rapid.SliceOfN(one, 1, 12), 1, 8), func(parts [][]step) []step { return slices.Concat(parts...) })
}

// setups generates the setups of histories. The calm ones come first.
func setups() *rapid.Generator[setup] {
	return rapid.Custom(func(t *rapid.T) setup {
		d := func(name string, from ...time.Duration) time.Duration { return rapid.SampledFrom(from).Draw(t, name) }
		s := setup{
			Namespaced: rapid.Bool().Draw(t, "namespaced"),
			Grace:      d("grace", 0, 30*time.Second, 2*time.Minute),
			Drift:      d("drift", 0, 3*time.Minute, 3*time.Minute),
			Update:     d("update", 0, 2*time.Second, 45*time.Second),
			Read:       d("read", 0, 0, 300*time.Millisecond),
			Write:      d("write", 0, 0, 20*time.Millisecond),
			Writers:    rapid.SampledFrom([]int{20, 1}).Draw(t, "writers"),
			Strict:     rapid.Bool().Draw(t, "strict"),
			StaleIDs:   rapid.Bool().Draw(t, "stale"),
			Immutable:  rapid.Bool().Draw(t, "immutable"),
			Shout:      rapid.Bool().Draw(t, "shout"),
			Repair:     rapid.Bool().Draw(t, "repair"),
		}
		for i := range s.Lag {
			s.Lag[i] = d("lag", 0, 5*time.Millisecond, 5*time.Millisecond, 300*time.Millisecond)
		}
		return s
	})
}

// do executes a step, and returns what happened, or "".
func (w *world) do(s step) string {
	for _, o := range ops() {
		if o.name == s.Op {
			return o.do(w, s)
		}
	}
	panic("no such step: " + s.Op)
}

// ops returns all kinds of steps.
func ops() []op { return slices.Concat(podOps(), objectOps(), azureOps(), programOps()) }

func podOps() []op {
	return []op{
		{"pod", 12, func(w *world, s step) string {
			return w.create(newPod(pick(pods(), s.A), w.anyNode(s.B), pick(colours(), s.C)))
		}},
		{"pending pod", 2, func(w *world, s step) string { return w.create(newPod(pick(pods(), s.A), "", pick(colours(), s.C))) }},
		{"gated pod", 3, func(w *world, s step) string {
			pod := newPod(pick(pods(), s.A), w.anyNode(s.B), pick(colours(), s.C))
			pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: v1.PodConditionAssigned}}
			return w.create(pod)
		}},
		{"crowd pod", 0, func(w *world, s step) string {
			return w.create(newPod(types.NamespacedName{Namespace: "x", Name: fmt.Sprintf("crowd%d", s.A)}, w.anyNode(s.B), crowdSelector(s.C*identity.MaxIdentities)))
		}},
		{"host pod", 1, func(w *world, s step) string {
			pod := newPod(pick(pods(), s.A), w.anyNode(s.B), pick(colours(), s.C))
			pod.Spec.HostNetwork = true
			return w.create(pod)
		}},
		{"schedule", 3, func(w *world, s step) string {
			return edit(w, pick(pods(), s.A), false, func(pod *corev1.Pod) string {
				if pod.Spec.NodeName != "" {
					return ""
				}
				pod.Spec.NodeName = w.anyNode(s.B)
				return "goes to node " + pod.Spec.NodeName
			})
		}},
		{"finish", 3, func(w *world, s step) string {
			return edit(w, pick(pods(), s.A), true, func(pod *corev1.Pod) string {
				pod.Status.Phase = pick([]corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}, s.B)
				return "is " + string(pod.Status.Phase)
			})
		}},
		{"run", 1, func(w *world, s step) string {
			return edit(w, pick(pods(), s.A), true, func(pod *corev1.Pod) string {
				if pod.Status.Phase != "" {
					return ""
				}
				pod.Status.Phase = corev1.PodRunning
				return "runs"
			})
		}},
		{"delete pod", 2, func(w *world, s step) string { return w.terminate(pick(pods(), s.A)) }},
		{"force-delete pod", 6, func(w *world, s step) string { return w.remove(&corev1.Pod{}, pick(pods(), s.A)) }},
		{"move", 3, func(w *world, s step) string {
			pod, _ := w.server.get(kindOf(&corev1.Pod{}), pick(pods(), s.A)).(*corev1.Pod)
			if pod == nil {
				return ""
			}
			w.remove(pod, pick(pods(), s.A))
			return w.create(newPod(pick(pods(), s.A), w.anyNode(s.B), pod.Labels[v1.BindingLabel])) + ", again"
		}},
		{"restart pod", 3, func(w *world, s step) string {
			pod, _ := w.server.get(kindOf(&corev1.Pod{}), pick(pods(), s.A)).(*corev1.Pod)
			if pod == nil {
				return ""
			}
			w.remove(pod, pick(pods(), s.A))
			w.wait(time.Duration(s.B) * 200 * time.Millisecond)
			return w.create(newPod(pick(pods(), s.A), pod.Spec.NodeName, pod.Labels[v1.BindingLabel])) + ", again"
		}},
		{"label", 3, func(w *world, s step) string {
			return edit(w, pick(pods(), s.A), false, func(pod *corev1.Pod) string {
				delete(pod.Labels, v1.BindingLabel)
				if colour := pick(colours(), s.B); colour != "" {
					pod.Labels[v1.BindingLabel] = colour
				}
				return "has the label " + pick(colours(), s.B)
			})
		}},
	}
}

// terminate deletes a pod with a grace period.
func (w *world) terminate(name types.NamespacedName) string {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	have := w.server.take(kindOf(&corev1.Pod{}), name)
	if have == nil || have.GetDeletionTimestamp() != nil {
		return ""
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	pod := copied(have)
	pod.SetDeletionTimestamp(&now)
	w.server.store(pod, false)
	return "pod " + name.String() + " is being deleted"
}

// anyNode returns the name of a node that exists, existed or will exist.
func (w *world) anyNode(n int) string { return nodeName(n) }

// create creates an object.
func (w *world) create(o client.Object) string {
	if w.server.create(o) != nil {
		return ""
	}
	return "create " + describe(o)
}

// remove deletes an object at once.
func (w *world) remove(o client.Object, name types.NamespacedName) string {
	if w.server.delete(kindOf(o), name, nil) != nil {
		return ""
	}
	return "delete " + kindOf(o).Name() + " " + name.String()
}

// edit changes an object, or its status.
func edit[T client.Object](w *world, name types.NamespacedName, status bool, mutate func(T) string) string {
	var none T
	said := ""
	_, err := w.server.update(kindOf(none), name, status, func(o client.Object) (client.Object, error) {
		if t, ok := o.(T); ok {
			said = mutate(t)
		}
		return o, nil
	})
	if err != nil || said == "" {
		return ""
	}
	return kindOf(none).Name() + " " + name.String() + " " + said
}

func describe(o client.Object) string {
	text := kindOf(o).Name() + " " + key(o)
	switch o := o.(type) {
	case *corev1.Pod:
		text += fmt.Sprintf(" on %q, label %q", o.Spec.NodeName, o.Labels[v1.BindingLabel])
		if o.Spec.HostNetwork {
			text += ", host's network"
		}
	case *corev1.Node:
		text += " " + o.Spec.ProviderID
	case *v1.AzureIdentity:
		text += fmt.Sprintf(" type %d of %s", o.Spec.Type, short(o.Spec.ResourceID))
	case *v1.AzureIdentityBinding:
		text += fmt.Sprintf(" of %s, selector %q", o.Spec.AzureIdentity, o.Spec.Selector)
	case *v1.AzureAssignedIdentity:
		text += " " + o.Status.Status
	}
	return text
}
