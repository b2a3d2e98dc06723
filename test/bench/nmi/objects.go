// The objects in the cluster and on Azure.

package nmi

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	namespace     = "bench"
	resourceGroup = "bench"
	// manyPods and manyIdentities are on the node in all rows. Each pod of the row moment has its own
	// identity.
	manyPods, manyIdentities = 250, 20
	maxMoments               = 500
)

func identityName(i int) string { return "id-" + strconv.Itoa(i) }
func podName(i int) string      { return "pod-" + strconv.Itoa(i) }

func resourceID(i int) string {
	return "/subscriptions/" + world.DefaultSubscription + "/resourceGroups/" + resourceGroup +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + identityName(i)
}

func clientID(i int) string { return fmt.Sprintf("44444444-4444-4444-9444-%012d", i) }

// azure returns a world with one virtual machine, the node, which has all identities. The rate
// limits are Azure's.
func azure() world.Document {
	doc := world.Default("secret")
	doc.VirtualMachines, doc.ScaleSets, doc.Identities = nil, nil, nil
	vm := world.Machine{ResourceGroup: resourceGroup, Name: nodeName}
	for i := range manyIdentities + maxMoments {
		doc.Identities = append(doc.Identities, world.Identity{
			ResourceID: resourceID(i), ClientID: clientID(i), PrincipalID: fmt.Sprintf("55555555-5555-4555-9555-%012d", i),
		})
		vm.Identities = append(vm.Identities, resourceID(i))
	}
	doc.VirtualMachines = []world.Machine{vm}
	doc.Settings.IMDS.DefaultMachine = nodeName
	return doc
}

// fill writes the node, and the pods that are on it in all rows, with their identities.
func (n *node) fill(ctx context.Context) error {
	self := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	if _, err := n.stage.Kube.CoreV1().Nodes().Create(ctx, self, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create node %s: %w", nodeName, err)
	}
	if err := n.stage.Namespace(ctx, namespace); err != nil {
		return err
	}
	if err := stage.Each(ctx, manyIdentities, func(ctx context.Context, i int) error { return grant(ctx, n.stage, namespace, i) }); err != nil {
		return err
	}
	return stage.Each(ctx, manyPods, func(ctx context.Context, i int) error {
		p := newPod(namespace, podName(i), nodeName, i%manyIdentities)
		if err := n.createPod(ctx, p); err != nil {
			return err
		}
		if err := assign(ctx, n.stage, p, i%manyIdentities); err != nil {
			return err
		}
		return n.runs(ctx, p, podAddress(i).String())
	})
}

// grant writes an AzureIdentity and its AzureIdentityBinding.
func grant(ctx context.Context, s *stage.Stage, namespace string, i int) error {
	meta := metav1.ObjectMeta{Name: identityName(i), Namespace: namespace}
	err := s.Objects.Create(ctx, &v1.AzureIdentity{ObjectMeta: meta, Spec: identitySpec(i)})
	if err == nil {
		err = s.Objects.Create(ctx, &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: identityName(i), Selector: identityName(i)}})
	}
	if err != nil {
		return fmt.Errorf("create identity %s: %w", identityName(i), err)
	}
	return nil
}

func identitySpec(i int) v1.AzureIdentitySpec {
	return v1.AzureIdentitySpec{Type: v1.UserAssignedMSI, ResourceID: resourceID(i), ClientID: clientID(i)}
}

func newPod(namespace, name, node string, id int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": "bench", v1.BindingLabel: identityName(id)}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "registry.example/app:1.2.3"}}},
	}
}

func (n *node) createPod(ctx context.Context, p *corev1.Pod) error {
	if _, err := n.stage.Kube.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod %s: %w", p.Name, err)
	}
	return nil
}

// assign writes the AzureAssignedIdentity as MIC does for an identity that is on the node already.
func assign(ctx context.Context, s *stage.Stage, p *corev1.Pod, id int) error {
	meta := metav1.ObjectMeta{Name: identityName(id), Namespace: p.Namespace}
	a := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.Name + "-" + p.Namespace + "-" + identityName(id), Namespace: p.Namespace,
			Labels: map[string]string{v1.NodeNameLabel: p.Spec.NodeName, v1.PodNameLabel: p.Name, v1.PodNamespaceLabel: p.Namespace},
		},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: p.Name, PodNamespace: p.Namespace, NodeName: p.Spec.NodeName,
			AzureIdentityRef: &v1.AzureIdentityCopy{
				APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentity", ObjectMeta: meta, Spec: identitySpec(id),
			},
			AzureBindingRef: &v1.AzureIdentityBindingCopy{
				APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentityBinding", ObjectMeta: meta,
				Spec: v1.AzureIdentityBindingSpec{AzureIdentity: identityName(id), Selector: identityName(id)},
			},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.StateAssigned},
	}
	if err := s.Objects.Create(ctx, a); err != nil {
		return fmt.Errorf("create assigned identity %s: %w", a.Name, err)
	}
	return nil
}

// runs reports a pod as running, as a kubelet does when its container has started.
func (n *node) runs(ctx context.Context, p *corev1.Pod, address string) error {
	now := time.Now().UTC().Format(time.RFC3339)
	patch := fmt.Sprintf(`{"status":{"phase":"Running","hostIP":"10.244.0.1","podIP":%q,"podIPs":[{"ip":%q}],"startTime":%q,`+
		`"conditions":[{"type":"Ready","status":"True","lastTransitionTime":%q}],`+
		`"containerStatuses":[{"name":"app","image":"registry.example/app:1.2.3","imageID":"sha256:1","restartCount":0,"ready":true,"started":true,"state":{"running":{"startedAt":%q}}}]}}`,
		address, address, now, now, now)
	_, err := n.stage.Kube.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("report pod %s as a kubelet: %w", p.Name, err)
	}
	return nil
}
