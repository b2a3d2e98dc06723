// The steps that are not about pods.

package model

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

func objectOps() []op {
	return []op{
		{"identity", 2, func(w *world, s step) string {
			id := newIdentity(pick(identities(), s.A), s.B)
			if s.C == 9 {
				id.Spec = v1.AzureIdentitySpec{Type: v1.ServicePrincipal, TenantID: "t", ClientID: "c"}
				id.Spec.ClientPassword.Name = "secret"
			}
			return w.create(id)
		}},
		{"delete identity", 2, func(w *world, s step) string { return w.remove(&v1.AzureIdentity{}, pick(identities(), s.A)) }},
		{"remake identity", 1, func(w *world, s step) string {
			name := pick(identities(), s.A)
			if w.remove(&v1.AzureIdentity{}, name) == "" {
				return ""
			}
			return w.create(newIdentity(name, s.B)) + ", again"
		}},
		{"resource", 3, func(w *world, s step) string {
			return edit(w, pick(identities(), s.A), false, func(id *v1.AzureIdentity) string {
				id.Spec.ResourceID = resourceID(s.B)
				if s.C > 6 {
					id.Spec.ResourceID = strings.ToUpper(id.Spec.ResourceID)
				}
				return "is of " + short(id.Spec.ResourceID)
			})
		}},
		{"client ID", 1, func(w *world, s step) string {
			return edit(w, pick(identities(), s.A), false, func(id *v1.AzureIdentity) string {
				id.Spec.ClientID = "00000000-0000-0000-0000-00000000000" + fmt.Sprint(s.B)
				if s.C > 4 {
					id.Spec.ClientID, _ = w.azure.fake.IDsOf(id.Spec.ResourceID)
				}
				return "has the client ID " + id.Spec.ClientID
			})
		}},
		{"preassign", 2, func(w *world, s step) string {
			return edit(w, pick(identities(), s.A), false, func(id *v1.AzureIdentity) string {
				id.Annotations = map[string]string{v1.PreassignAnnotation: pick([]string{"all", "set", "vm", "", "nowhere"}, s.B)}
				return "is preassigned to " + id.Annotations[v1.PreassignAnnotation]
			})
		}},
		{"behavior", 1, func(w *world, s step) string {
			return edit(w, pick(identities(), s.A), false, func(id *v1.AzureIdentity) string {
				id.Annotations = map[string]string{v1.BehaviorAnnotation: pick([]string{"namespaced", ""}, s.B)}
				return "is " + id.Annotations[v1.BehaviorAnnotation]
			})
		}},
		{"binding", 3, func(w *world, s step) string {
			return w.create(newBinding(pick(bindings(), s.A), pick(identities(), s.B).Name, pick(colours(), s.C)))
		}},
		{"delete binding", 2, func(w *world, s step) string { return w.remove(&v1.AzureIdentityBinding{}, pick(bindings(), s.A)) }},
		{"rebind", 2, func(w *world, s step) string {
			return edit(w, pick(bindings(), s.A), false, func(b *v1.AzureIdentityBinding) string {
				b.Spec.AzureIdentity, b.Spec.Selector = pick(identities(), s.B).Name, pick(colours(), s.C)
				return "is of " + b.Spec.AzureIdentity + ", selector " + b.Spec.Selector
			})
		}},
		{"exception", 1, func(w *world, s step) string {
			return w.create(&v1.AzurePodIdentityException{
				ObjectMeta: metav1.ObjectMeta{Namespace: pick(pods(), s.A).Namespace, Name: "e"},
				Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": "it"}},
			})
		}},
		{"node", 3, func(w *world, s step) string {
			node := newNode(s.A, pick(providerIDs(), s.A))
			if s.B > 4 {
				node.Spec.ProviderID = ""
			}
			return w.create(node)
		}},
		{"node leaves", 2, func(w *world, s step) string {
			return w.remove(&corev1.Node{}, client.ObjectKey{Name: nodeName(s.A)})
		}},
		{"node found", 2, func(w *world, s step) string {
			return edit(w, client.ObjectKey{Name: nodeName(s.A)}, false, func(n *corev1.Node) string {
				if n.Spec.ProviderID != "" {
					return ""
				}
				n.Spec.ProviderID = pick(providerIDs(), s.A)
				return "is " + n.Spec.ProviderID
			})
		}},
		{"meddle", 2, meddle},
		{"v1.8.17's object", 2, oldObject},
		{"ledger", 1, loseLedger},
	}
}

// meddle changes an assigned identity as another client.
func meddle(w *world, s step) string {
	all := w.truth().assigned
	if len(all) == 0 {
		return ""
	}
	o := all[s.A%len(all)]
	name := client.ObjectKeyFromObject(o)
	w.mu.Lock()
	clear(w.ready)
	w.mu.Unlock()
	if s.B > 5 {
		return w.remove(o, name)
	}
	return edit(w, name, false, func(o *v1.AzureAssignedIdentity) string {
		switch s.B {
		case 0:
			o.Status.Status = ""
		case 1:
			o.Status.Status = v1.StateUnassigned
		case 2:
			o.Spec.NodeName = "n1"
		case 3:
			o.Spec.AzureIdentityRef = nil
		default:
			o.Spec.Pod = "nobody"
		}
		return fmt.Sprintf("is meddled with (%d)", s.B)
	})
}

// loseLedger deletes or damages a ledger. The identities in it have no known owner from then on:
// they may stay or be detached.
func loseLedger(w *world, s step) string {
	all := listOf[*corev1.ConfigMap](w.server.list)
	if len(all) == 0 {
		return ""
	}
	cm := all[s.A%len(all)]
	group, _, _ := ledger.Parse(cm)
	w.azure.mu.Lock()
	clear(w.azure.mine[group])
	w.azure.bookless[group] = true
	w.azure.mu.Unlock()
	for _, k := range w.keys() {
		w.azure.forget(k) // another client's that MIC was about to attach again
	}
	if s.B > 4 {
		return w.remove(cm, client.ObjectKeyFromObject(cm))
	}
	return edit(w, client.ObjectKeyFromObject(cm), false, func(cm *corev1.ConfigMap) string {
		cm.Data["identities"] = "nonsense"
		return "is damaged"
	})
}

// oldObject creates an assigned identity as v1.8.17 wrote it before the migration.
func oldObject(w *world, s step) string {
	pod, id := pick(pods(), s.A), pick(identities(), s.B)
	ns := "default"
	if w.setup.Namespaced {
		ns = id.Namespace
	}
	o := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{
		Namespace: ns, Name: strings.ToLower(pod.Name + "-" + pod.Namespace + "-" + id.Name), Finalizers: []string{v1.Finalizer},
	}}
	o.Spec.Pod, o.Spec.PodNamespace, o.Spec.NodeName = pod.Name, pod.Namespace, nodeName(s.C%3)
	o.Spec.AzureIdentityRef = &v1.AzureIdentityCopy{ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name}}
	if have, _ := w.server.get(kindOf(&v1.AzureIdentity{}), id).(*v1.AzureIdentity); have != nil {
		o.Spec.AzureIdentityRef.ObjectMeta, o.Spec.AzureIdentityRef.Spec = have.ObjectMeta, have.Spec
	}
	o.Spec.AzureBindingRef = &v1.AzureIdentityBindingCopy{ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: "gone"}}
	o.Status.Status = pick([]string{v1.StateAssigned, v1.StateCreated, "", v1.StateUnassigned}, s.C)
	return w.create(o)
}

func azureOps() []op {
	return []op{
		{"fault", 6, func(w *world, s step) string {
			f := fault(s.A % int(faults))
			w.azure.mu.Lock()
			defer w.azure.mu.Unlock()
			for range s.B%3 + 1 {
				w.azure.patches = append(w.azure.patches, f)
			}
			return fmt.Sprintf("the next %d updates: %s", s.B%3+1, f)
		}},
		{"bad read", 2, func(w *world, s step) string {
			f := pick([]fault{broken, throttled, unreachable, hanging}, s.A)
			w.azure.mu.Lock()
			defer w.azure.mu.Unlock()
			w.azure.reads = append(w.azure.reads, f)
			return "the next read of Azure: " + f.String()
		}},
		{"pause", 1, func(w *world, s step) string {
			w.azure.fake.PauseSubscription(subscription, 30*time.Second)
			return "the subscription has used up its calls for 30s"
		}},
		{"fate", 3, func(w *world, s step) string {
			f := fate(s.B % int(fates))
			w.azure.mu.Lock()
			defer w.azure.mu.Unlock()
			w.azure.fates[strings.ToLower(resourceID(s.A))] = f
			return "id" + fmt.Sprint(s.A%resources) + " is " + f.String()
		}},
		{"forbid group", 1, func(w *world, s step) string {
			group := pick(groups(), s.A)
			w.azure.mu.Lock()
			defer w.azure.mu.Unlock()
			w.azure.forbidden[group] = s.B > 3
			return fmt.Sprintf("%s is forbidden: %t", group, s.B > 3)
		}},
		{"upgrade", 1, func(w *world, s step) string {
			w.azure.upgrade(pick(groups(), s.A), 3*time.Minute)
			return pick(groups(), s.A).String() + " is upgraded, which takes 3m"
		}},
		{"hand adds", 2, byHand(func(w *world, g compute.Group, id string) bool { return w.azure.handAdd(g, id) })},
		{"hand removes", 3, byHand(func(w *world, g compute.Group, id string) bool { return w.azure.handRemove(g, id) })},
		{"identity deleted on Azure", 1, byHand(func(w *world, _ compute.Group, id string) bool {
			return w.azure.deleteIdentity(id)
		})},
		{"identity made on Azure", 2, byHand(func(w *world, _ compute.Group, id string) bool {
			w.azure.fake.AddIdentities(id)
			return true
		})},
		{"identity made again on Azure", 2, byHand(func(w *world, _ compute.Group, id string) bool {
			w.azure.fake.DeleteIdentity(id)
			w.azure.fake.AddIdentities(id)
			return true
		})},
		{"group deleted", 1, byHand(func(w *world, g compute.Group, _ string) bool { return w.azure.deleteGroup(g) })},
		{"group made", 1, byHand(func(w *world, g compute.Group, _ string) bool {
			if _, exists := w.azure.has(g); exists {
				return false
			}
			w.azure.fake.SetGroup(g, compute.Identities{})
			return true
		})},
	}
}

// byHand wraps a change on Azure that only a comparison can detect. It does nothing in setups
// without comparisons.
func byHand(do func(*world, compute.Group, string) bool) func(*world, step) string {
	return func(w *world, s step) string {
		if w.setup.Drift == 0 || !do(w, pick(groups(), s.A), resourceID(s.B)) {
			return ""
		}
		w.byHand = true
		return fmt.Sprintf("%s: %s, %s", s.Op, pick(groups(), s.A), short(resourceID(s.B)))
	}
}

func programOps() []op {
	return []op{
		{"wait", 18, func(w *world, s step) string {
			d := pick([]time.Duration{
				10 * time.Millisecond, time.Second, 5 * time.Second, 100 * time.Millisecond, 40 * time.Second,
				time.Second, 5 * time.Second, 100 * time.Millisecond, 40 * time.Second, 4 * time.Minute,
			}, s.A)
			for range 4 {
				w.wait(d / 4)
				w.checkNow()
			}
			return "wait " + d.String()
		}},
		{"hold", 3, func(w *world, s step) string {
			w.informer(s.A).hold(true)
			return "MIC hears nothing of " + w.informer(s.A).kind.Name()
		}},
		{"deliver", 3, func(w *world, s step) string {
			w.informer(s.A).deliver(s.B%3+1, s.C > 4)
			return fmt.Sprintf("MIC hears of up to %d changes of %s", s.B%3+1, w.informer(s.A).kind.Name())
		}},
		{"release", 3, func(w *world, s step) string {
			w.informer(s.A).hold(false)
			return "MIC hears of " + w.informer(s.A).kind.Name() + " again"
		}},
		{"relist", 2, func(w *world, s step) string {
			w.informer(s.A).relist()
			return "MIC lists " + w.informer(s.A).kind.Name() + " anew"
		}},
		{"API fault", 2, func(w *world, s step) string {
			w.server.mu.Lock()
			defer w.server.mu.Unlock()
			for range s.A%3 + 1 {
				w.server.fails = append(w.server.fails, refusedByServer(s.B%4))
			}
			w.mu.Lock()
			w.disturbed = time.Now()
			w.mu.Unlock()
			return fmt.Sprintf("the next %d writes of MIC fail: %v", s.A%3+1, refusedByServer(s.B%4).err)
		}},
		{"restart", 1, func(w *world, _ step) string { w.restart(false); return "restart MIC" }},
		{"kill", 2, func(w *world, _ step) string { w.restart(true); return "kill and start MIC" }},
	}
}
