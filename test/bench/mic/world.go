// The nodes, pods and identities of a cluster, and its Azure resources.

package mic

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	subscription  = world.DefaultSubscription
	resourceGroup = "bench"
	// namespaces is the number of namespaces that the identities are spread over.
	namespaces = 10
	// podsPerVM is the number of pods on a node that is a single VM.
	podsPerVM = 4
)

// shape is the size of a cluster.
type shape struct {
	nodes, sets, identities int
	// missing is how many of the last identities do not exist on Azure.
	missing int
	// arm is how long an update of a scale set, or of a VM, takes.
	arm time.Duration
	// vms means that every node is a single VM and there are no scale sets.
	vms bool
}

func identityName(i int) string { return "id-" + strconv.Itoa(i) }
func namespaceOf(i int) string  { return "bench-" + strconv.Itoa(i%namespaces) }
func nodeName(i int) string     { return "node-" + strconv.Itoa(i) }
func setName(i int) string      { return "vmss-" + strconv.Itoa(i) }

func resourceID(i int) string {
	return "/subscriptions/" + subscription + "/resourceGroups/" + resourceGroup +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + identityName(i)
}

func clientID(i int) string { return fmt.Sprintf("44444444-4444-4444-9444-%012d", i) }

// providerID returns the provider ID of the i-th node, which is in scale set i % sets or a VM.
func (s shape) providerID(i int) string {
	if s.vms {
		return fmt.Sprintf("azure:///subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachines/%s",
			subscription, resourceGroup, nodeName(i))
	}
	return fmt.Sprintf("azure:///subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachineScaleSets/%s/virtualMachines/%d",
		subscription, resourceGroup, setName(i%s.sets), i/s.sets)
}

// world returns the world of the emulated Azure, with the rate limits of the real one.
func (s shape) world() world.Document {
	doc := world.Default("secret")
	doc.VirtualMachines, doc.ScaleSets, doc.Identities = nil, nil, nil
	doc.Settings.IMDS.DefaultMachine = ""
	doc.Settings.ARM.UpdateDuration = world.Duration(s.arm)
	for i := range s.identities - s.missing {
		doc.Identities = append(doc.Identities, world.Identity{
			ResourceID: resourceID(i), ClientID: clientID(i), PrincipalID: fmt.Sprintf("55555555-5555-4555-9555-%012d", i),
		})
	}
	if s.vms {
		// Azure's limits on the reads of one VM apply as well.
		doc.Settings.Limits.MachineReads = world.Bucket{Size: 36, PerMinute: 12}
		doc.Settings.Limits.OperationReads = world.Bucket{Size: 45, PerMinute: 15}
		for i := range s.nodes {
			doc.VirtualMachines = append(doc.VirtualMachines, world.Machine{ResourceGroup: resourceGroup, Name: nodeName(i)})
		}
	}
	for set := range s.sets {
		m := world.Machine{ResourceGroup: resourceGroup, Name: setName(set)}
		for i := set; i < s.nodes; i += s.sets {
			m.Instances = append(m.Instances, world.Instance{ID: strconv.Itoa(i / s.sets), Name: nodeName(i)})
		}
		doc.ScaleSets = append(doc.ScaleSets, m)
	}
	return doc
}

// fill writes everything except the pods.
func (c *cluster) fill(ctx context.Context, s shape) error {
	err := stage.Each(ctx, namespaces, func(ctx context.Context, i int) error {
		return c.Namespace(ctx, namespaceOf(i))
	})
	if err != nil {
		return err
	}
	if err := c.addNodes(ctx, s, 0); err != nil {
		return err
	}
	return c.addIdentities(ctx, 0, s.identities)
}

// addNodes writes the nodes starting with number from.
func (c *cluster) addNodes(ctx context.Context, s shape, from int) error {
	return stage.Each(ctx, s.nodes-from, func(ctx context.Context, i int) error {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(from + i)}, Spec: corev1.NodeSpec{ProviderID: s.providerID(from + i)}}
		if _, err := c.Kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create node %s: %w", node.Name, err)
		}
		return nil
	})
}

// addIdentities writes the AzureIdentity and AzureIdentityBinding of the identities from … to-1.
func (c *cluster) addIdentities(ctx context.Context, from, to int) error {
	return stage.Each(ctx, to-from, func(ctx context.Context, n int) error {
		i := from + n
		meta := metav1.ObjectMeta{Name: identityName(i), Namespace: namespaceOf(i)}
		for _, o := range []client.Object{
			&v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{Type: v1.UserAssignedMSI, ResourceID: resourceID(i), ClientID: clientID(i)}},
			&v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: identityName(i), Selector: identityName(i)}},
		} {
			if err := c.Objects.Create(ctx, o); err != nil {
				return fmt.Errorf("create %T %s: %w", o, o.GetName(), err)
			}
		}
		return nil
	})
}

// pod returns the n-th pod. Its identity is n % identities, and the pods of an identity are on all
// scale sets. The pods of a VM are consecutive.
func (s shape) pod(n int) *corev1.Pod {
	id := n % s.identities
	if s.vms {
		return newPod("pod-"+strconv.Itoa(n), id, nodeName(n/podsPerVM))
	}
	node := (n/s.identities + 7*id) % s.nodes
	return newPod("pod-"+strconv.Itoa(n), id, nodeName(node))
}

func newPod(name string, id int, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespaceOf(id), Labels: map[string]string{v1.BindingLabel: identityName(id)}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func (c *cluster) create(ctx context.Context, p *corev1.Pod) error {
	if _, err := c.Kube.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod %s: %w", p.Name, err)
	}
	return nil
}

func (c *cluster) delete(ctx context.Context, p *corev1.Pod) error {
	now := int64(0)
	if err := c.Kube.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return fmt.Errorf("delete pod %s: %w", p.Name, err)
	}
	return nil
}

// createPods writes the pods from … to-1.
func (c *cluster) createPods(ctx context.Context, s shape, from, to int, far func(int)) error {
	return stage.Each(ctx, to-from, func(ctx context.Context, i int) error {
		if i%100 == 0 {
			far(from + i)
		}
		return c.create(ctx, s.pod(from+i))
	})
}
