// Checks of the world at rest besides Azure and the assigned identities: conditions, and that no
// effect of past faults remains.

package model

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/reason"
)

// checkConditions checks the conditions of identities and pods.
func (w *world) checkConditions(truth *view) {
	for name, id := range truth.identities {
		if id.Annotations[v1.PreassignAnnotation] != "" {
			continue // it can be refused without any pod
		}
		refused, waiting := false, false
		for _, o := range truth.assigned {
			if o.Spec.AzureIdentityRef.UID == id.UID {
				refused = refused || assignment.AboutIdentity(o.Status.Reason)
				waiting = waiting || o.Status.Status != v1.StateAssigned && o.Status.Reason != reason.NodeNotOnAzure.Name()
			}
		}
		have := meta.FindStatusCondition(id.Status.Conditions, v1.ConditionAssignable)
		// While some wait for Azure for other reasons, the last condition stays.
		if bad := have != nil && have.Status == "False"; bad != refused && (refused || !waiting) {
			w.fail("condition of an identity", "%s is refused: %t, says so: %t", name, refused, bad)
		}
	}
	claims := truth.claims()
	for _, pod := range truth.pods {
		if len(pod.Spec.ReadinessGates) == 0 || pod.Spec.NodeName == "" || pod.Labels[v1.BindingLabel] == "" ||
			pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		all, any := true, false
		for _, c := range claims {
			if c.pod != pod {
				continue
			}
			any = true
			for _, o := range truth.assigned {
				all = all && (!c.of(o) || o.Status.Status == v1.StateAssigned)
			}
		}
		said := corev1.ConditionUnknown
		for _, c := range pod.Status.Conditions {
			if c.Type == v1.PodConditionAssigned {
				said = c.Status
			}
		}
		if ready := all && any; ready != (said == corev1.ConditionTrue) || said == corev1.ConditionUnknown {
			w.fail("readiness of a pod", "%s is ready: %t, says %s", key(pod), ready, said)
		}
	}
}

// checkAfterlife checks that a world at rest serves a new pod at once, whatever happened before.
func (w *world) checkAfterlife() {
	if w.failed() {
		return
	}
	name := types.NamespacedName{Namespace: "x", Name: "late"}
	for n, node := range []string{"n0", "n2"} {
		pod := types.NamespacedName{Namespace: name.Namespace, Name: name.Name + node}
		w.create(newPod(pod, node, colours()[n]))
	}
	w.wait(w.prompt() + 3*time.Second + 2*(w.setup.Update+w.setup.Read) + 20*time.Second*time.Duration(min(w.setup.Write, 1)))
	if !w.failed() && w.content() {
		w.checkRest()
	}
	for _, node := range []string{"n0", "n2"} {
		w.remove(&corev1.Pod{}, types.NamespacedName{Namespace: name.Namespace, Name: name.Name + node})
	}
	w.wait(w.prompt() + 3*time.Second + 2*(w.setup.Update+w.setup.Read) + w.setup.Grace)
	if !w.failed() && w.content() {
		w.checkRest()
	}
}
