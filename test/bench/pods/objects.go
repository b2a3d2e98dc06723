// The objects in the cluster and in the emulated Azure that the parts use.

package pods

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/demo"
)

const (
	// namespace is the namespace of the pods that really run.
	namespace = "bench"
	// namespaces is the number of namespaces of the pods that exist only in the API.
	namespaces = 100
	// writers is the number of concurrent writers.
	writers = 16
	// resource is the resource of the requested tokens, escaped.
	resource = "https%3A%2F%2Fmanagement.azure.com%2F"
)

type object = map[string]any

func kind(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "aadpodidentity.k8s.io", Version: "v1", Resource: resource}
}

// identity is a managed identity with its binding. Its name is also the value of the label.
type identity struct {
	name, namespace, resourceID, clientID, principalID string
}

// identities returns those of the parts: cold-0 …, burst-0 …, and one for each of the namespaces.
func (o options) identities() []identity {
	var list []identity
	add := func(n int, namespaceOf func(int) string, prefix string) {
		for i := range n {
			name := prefix + strconv.Itoa(i)
			list = append(list, identity{
				name: name, namespace: namespaceOf(i),
				resourceID: "/subscriptions/" + sandbox.SubscriptionID + "/resourceGroups/" + sandbox.ResourceGroup +
					"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/bench-" + name,
				clientID:    fmt.Sprintf("44444444-4444-4444-9444-%012d", len(list)),
				principalID: fmt.Sprintf("55555555-5555-4555-9555-%012d", len(list)),
			})
		}
	}
	here := func(int) string { return namespace }
	add(o.cold, here, "cold-")
	add(o.burst, here, "burst-")
	add(namespaces, scaleNamespace, "scale-")
	return list
}

func scaleNamespace(i int) string { return fmt.Sprintf("bench-%03d", i) }

// begin installs the product and creates everything that must exist before a pod does.
func (b *bench) begin(ctx context.Context) error {
	if err := b.connect(); err != nil {
		return err
	}
	step := b.Progress.Start("install podid from its Helm chart")
	values := []string{
		"mic.replicas=1",
		// Detaching an identity is an update as well, and one in flight delays the next. Only attaching
		// is measured.
		"mic.identityDetachGracePeriod=1h",
	}
	if b.options.Profile != "" {
		values = append(values, "nmi.extraArgs={--enableProfile}", "mic.extraArgs={--enableProfile}")
	}
	if err := demo.Install(ctx, b.sandbox, demo.Installation{Helm: b.helm, Capture: b.options.way, Values: append(values, b.options.set...)}); err != nil {
		step.Fail()
		return err
	}
	step.Done("")
	step = b.Progress.Start("identities and bindings")
	if err := b.world(ctx); err != nil {
		step.Fail()
		return err
	}
	step.Done("")
	b.follow(ctx)
	return nil
}

// world writes all identities, bindings and namespaces.
func (b *bench) world(ctx context.Context) error {
	// The limits of the real Azure, 12 updates and then 4 a minute, would not allow one pod right
	// after another.
	free := object{"limits": object{"scaleSetWrites": object{"size": 1000, "perMinute": 60000}}}
	if err := b.controlAzure(ctx, "PATCH", "/v1/settings", free); err != nil {
		return err
	}
	names := []string{namespace}
	for i := range namespaces {
		names = append(names, scaleNamespace(i))
	}
	err := each(ctx, names, func(ctx context.Context, name string) error {
		_, err := b.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range b.options.identities() { // sequentially: each call replaces the emulator's world
		if err := b.controlAzure(ctx, "PUT", "/v1/identities", object{"resourceID": i.resourceID, "clientID": i.clientID, "principalID": i.principalID}); err != nil {
			return err
		}
	}
	return each(ctx, b.options.identities(), b.bind)
}

// bind writes an AzureIdentity and its AzureIdentityBinding.
func (b *bench) bind(ctx context.Context, i identity) error {
	selector, _, _ := strings.Cut(i.name, "/")
	write := func(resource, kindName string, spec object) error {
		o := &unstructured.Unstructured{Object: object{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kindName,
			"metadata": object{"name": i.name, "namespace": i.namespace}, "spec": spec,
		}}
		if _, err := b.objects.Resource(kind(resource)).Namespace(i.namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create %s %s: %w", kindName, i.name, err)
		}
		return nil
	}
	err := write("azureidentities", "AzureIdentity", object{"type": int64(0), "resourceID": i.resourceID, "clientID": i.clientID})
	if err != nil {
		return err
	}
	return write("azureidentitybindings", "AzureIdentityBinding", object{"azureIdentity": i.name, "selector": selector})
}

// each calls f for all, several at a time, until one fails.
func each[T any](ctx context.Context, all []T, f func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, one := range all {
		group.Go(func() error { return f(ctx, one) })
	}
	return group.Wait()
}

// asker returns a pod that runs the benchmark's program.
func asker(name, label string, args ...string) *corev1.Pod {
	no, yes := false, true
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"aadpodidbinding": label}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &grace,
			EnableServiceLinks: &no,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "app", Image: podImage, ImagePullPolicy: corev1.PullNever, Args: args,
				Env: []corev1.EnvVar{{Name: "PODID_BENCH", Value: "1"}, {Name: "BENCH_RESOURCE", Value: resource}},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

func (b *bench) create(ctx context.Context, pod *corev1.Pod) error {
	if _, err := b.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	return nil
}
