// A random history of a cluster: pods, bindings, identities and nodes are created, changed and
// deleted.
package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// How many objects there are in each team's namespace. There are few names, so that they are reused
// often: reuse is where old and new objects get confused.
const (
	podsEach       = 25
	bindingsEach   = 6
	identitiesEach = 6
	selectorsEach  = 4
)

// steady is the namespace in which nothing changes.
const steady = "steady"

// teams returns the namespaces in which things change.
func teams() []string { return []string{"team-0", "team-1"} }

// change is one change in the cluster. It may be repeated if its outcome is unknown.
type change struct {
	what string
	do   func(context.Context, client.Client) error
}

// stage is a stage in a pod's life.
type stage int

const (
	absent stage = iota
	running
	leaving
	finished
)

// history generates changes from a seed alone: it assumes that every change succeeds, so that the
// same seed gives the same changes.
type history struct {
	rng        *rand.Rand
	pods       map[string]stage
	bindings   map[string]bool
	identities map[string]bool
	nodes      map[string]bool
	flooded    int // how much of the flood there is
}

func newHistory(rng *rand.Rand) *history {
	h := &history{rng: rng, pods: map[string]stage{}, bindings: map[string]bool{}, identities: map[string]bool{}, nodes: map[string]bool{}}
	for _, n := range nodes() {
		h.nodes[n.Name] = true
	}
	return h
}

func (h *history) pick(list []string) string { return list[h.rng.IntN(len(list))] }

// name returns a random name out of that many.
func (h *history) name(kind string, most int) string {
	return kind + "-" + strconv.Itoa(h.rng.IntN(most))
}

// next returns the next change.
func (h *history) next() change {
	team := h.pick(teams())
	switch p := h.rng.IntN(100); {
	case p < 58:
		return h.pod(team, h.name("pod", podsEach))
	case p < 70:
		return h.binding(team, h.name("binding", bindingsEach))
	case p < 81:
		return h.identity(team, h.name("id", identitiesEach))
	case p < 96:
		return h.attack()
	case p < 97:
		return h.policy()
	default:
		return h.node()
	}
}

// goOn completes what is half done, as kubelets would: terminating pods go.
func (h *history) goOn() (changes []change) {
	for _, team := range namespaces() {
		for i := range podsIn(team) {
			name := "pod-" + strconv.Itoa(i)
			if h.pods[team+"/"+name] == leaving {
				h.pods[team+"/"+name] = absent
				changes = append(changes, h.podGoes(team, name))
			}
		}
	}
	return changes
}

func (h *history) pod(team, name string) change {
	key := team + "/" + name
	switch h.pods[key] {
	case absent:
		h.pods[key] = running
		return h.podComes(team, name)
	case leaving, finished:
		h.pods[key] = absent
		return h.podGoes(team, name)
	case running:
	}
	switch p := h.rng.IntN(10); {
	case p < 3:
		h.pods[key] = absent
		return h.podGoes(team, name)
	case p < 5:
		h.pods[key] = leaving
		return change{"delete pod " + key, func(ctx context.Context, c client.Client) error {
			return client.IgnoreNotFound(c.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}, client.GracePeriodSeconds(3600)))
		}}
	case p < 7:
		h.pods[key] = finished
		phase := []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}[h.rng.IntN(2)]
		return change{fmt.Sprintf("pod %s: %s", key, phase), func(ctx context.Context, c client.Client) error {
			return edit(ctx, c.Status(), c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}, func(p *corev1.Pod) { p.Status.Phase = phase })
		}}
	default:
		selector := h.selector(team)
		return change{fmt.Sprintf("pod %s: label %q", key, selector), func(ctx context.Context, c client.Client) error {
			return edit(ctx, c, c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}, func(p *corev1.Pod) { p.Labels = label(selector) })
		}}
	}
}

// selector returns a label's value, or none.
func (h *history) selector(team string) string {
	if h.rng.IntN(10) == 0 {
		return ""
	}
	if team == mallory {
		return h.othersSelector()
	}
	return h.name("app", selectorsEach)
}

func label(selector string) map[string]string {
	if selector == "" {
		return nil
	}
	return map[string]string{v1.BindingLabel: selector}
}

func (h *history) podComes(team, name string) change {
	pod := newPod(team, name, h.selector(team), nodes()[h.rng.IntN(len(nodes()))].Name)
	pod.Spec.HostNetwork = h.rng.IntN(30) == 0
	return change{
		fmt.Sprintf("pod %s/%s on %s with label %q", team, name, pod.Spec.NodeName, pod.Labels[v1.BindingLabel]),
		func(ctx context.Context, c client.Client) error { return create(ctx, c, pod.DeepCopy()) },
	}
}

func (h *history) podGoes(team, name string) change {
	return change{"pod " + team + "/" + name + " goes", func(ctx context.Context, c client.Client) error {
		return client.IgnoreNotFound(c.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}, client.GracePeriodSeconds(0)))
	}}
}

func (h *history) binding(team, name string) change {
	key := team + "/" + name
	meta := metav1.ObjectMeta{Namespace: team, Name: name}
	spec := v1.AzureIdentityBindingSpec{AzureIdentity: h.name("id", identitiesEach), Selector: h.name("app", selectorsEach), Weight: h.rng.IntN(3)}
	if team == mallory {
		spec.Selector = h.othersSelector()
		spec.AzureIdentity = h.pick([]string{spec.AzureIdentity, h.name(steadyPrefix[:len(steadyPrefix)-1], steadyPods)})
	}
	what := fmt.Sprintf("binding %s: %s to %s", key, spec.AzureIdentity, spec.Selector)
	if !h.bindings[key] {
		h.bindings[key] = true
		return change{"new " + what, func(ctx context.Context, c client.Client) error {
			return create(ctx, c, &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: spec})
		}}
	}
	if h.rng.IntN(6) == 0 {
		h.bindings[key] = false
		return change{"delete binding " + key, func(ctx context.Context, c client.Client) error {
			return client.IgnoreNotFound(c.Delete(ctx, &v1.AzureIdentityBinding{ObjectMeta: meta}))
		}}
	}
	return change{what, func(ctx context.Context, c client.Client) error {
		return edit(ctx, c, c, &v1.AzureIdentityBinding{ObjectMeta: meta}, func(b *v1.AzureIdentityBinding) { b.Spec = spec })
	}}
}

func (h *history) identity(team, name string) change {
	key := team + "/" + name
	meta := metav1.ObjectMeta{Namespace: team, Name: name}
	spec := h.identitySpec()
	if team == mallory {
		spec = h.othersIdentity()
	}
	what := fmt.Sprintf("identity %s: %s", key, short(spec.ResourceID))
	touch := strconv.Itoa(h.rng.IntN(1000))
	switch {
	case !h.identities[key]:
		h.identities[key] = true
		return change{"new " + what, func(ctx context.Context, c client.Client) error {
			return create(ctx, c, &v1.AzureIdentity{ObjectMeta: meta, Spec: spec})
		}}
	case h.rng.IntN(6) == 0:
		h.identities[key] = false
		return change{"delete identity " + key, func(ctx context.Context, c client.Client) error {
			return client.IgnoreNotFound(c.Delete(ctx, &v1.AzureIdentity{ObjectMeta: meta}))
		}}
	case h.rng.IntN(3) == 0:
		return change{"touch identity " + key, func(ctx context.Context, c client.Client) error {
			return edit(ctx, c, c, &v1.AzureIdentity{ObjectMeta: meta}, func(i *v1.AzureIdentity) {
				i.Annotations = map[string]string{"touched": touch}
				if team == mallory {
					giant(i, touch)
				}
			})
		}}
	default:
		return change{what, func(ctx context.Context, c client.Client) error {
			return edit(ctx, c, c, &v1.AzureIdentity{ObjectMeta: meta}, func(i *v1.AzureIdentity) { i.Spec = spec })
		}}
	}
}

// identitySpec returns a spec that is most often of a valid managed identity, in some spelling.
func (h *history) identitySpec() v1.AzureIdentitySpec {
	switch h.rng.IntN(20) {
	case 0:
		return v1.AzureIdentitySpec{
			Type: v1.ServicePrincipal, TenantID: tenant, ClientID: otherClient, ClientPassword: v1.SecretReference{Name: "secret"},
		}
	case 1:
		return v1.AzureIdentitySpec{ResourceID: h.pick(refusedIDs())}
	case 2:
		return v1.AzureIdentitySpec{ResourceID: sharedID()}
	default:
		id := h.pick(goodIDs())
		return v1.AzureIdentitySpec{ResourceID: []string{id, spelled(id)}[h.rng.IntN(2)]}
	}
}

// node deletes or recreates a node.
func (h *history) node() change {
	passing := slices.DeleteFunc(nodes(), func(n *corev1.Node) bool { return slices.Contains(steadyNodes(), n.Name) })
	n := passing[h.rng.IntN(len(passing))]
	h.nodes[n.Name] = !h.nodes[n.Name]
	if h.nodes[n.Name] {
		return change{"node " + n.Name, func(ctx context.Context, c client.Client) error { return create(ctx, c, n.DeepCopy()) }}
	}
	return change{"node " + n.Name + " goes", func(ctx context.Context, c client.Client) error {
		return client.IgnoreNotFound(c.Delete(ctx, n.DeepCopy()))
	}}
}

func newPod(namespace, name, selector, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: label(selector)},
		Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}
}

// create creates an object unless an earlier attempt has.
func create(ctx context.Context, c client.Client, o client.Object) error {
	if err := c.Create(ctx, o); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// updater is a client, or its part for a subresource.
type updater[O any] interface {
	Update(ctx context.Context, object client.Object, o ...O) error
}

// edit changes an existing object.
func edit[T client.Object, O any](ctx context.Context, w updater[O], r client.Reader, o T, change func(T)) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := r.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return w.Update(ctx, o)
	})
}

// mistaken reports whether an error is permanent because the generated object is invalid.
func mistaken(err error) bool {
	return slices.ContainsFunc([]func(error) bool{
		apierrors.IsInvalid, apierrors.IsBadRequest, apierrors.IsNotFound, apierrors.IsMethodNotSupported,
	}, func(is func(error) bool) bool { return is(err) })
}
