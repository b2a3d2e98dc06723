// Differences in spelling between Azure's resource groups and those of an AzureIdentity.

package model

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	emulator "github.com/podid-io/podid/internal/emulator/world"
)

// TestSpellings: two namespaces spell one resource group differently, and Azure uses one of the
// spellings. One update attaches the identity for both, and comparisons find no drift. The identity
// stays until the last pod is gone.
func TestSpellings(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	synctest.Test(t, func(t *testing.T) {
		const grace, drift = time.Minute, 3 * time.Minute
		spelled := func(group string) string { return strings.Replace(resourceID(0), "/ids/", "/"+group+"/", 1) }
		azure := newEmulatedARM(t, func(d *emulator.Document) {
			d.Settings.ARM.UpdateDuration = emulator.Duration(time.Second)
			d.ScaleSets = []emulator.Machine{{SubscriptionID: subscription, ResourceGroup: "rg", Name: "set"}}
			d.Identities = []emulator.Identity{{ResourceID: spelled("\u00e9t\u00e9"), ClientID: emulator.NewGUID(), PrincipalID: emulator.NewGUID()}}
		})
		w := newWorld(setup{Namespaced: true, Grace: grace, Drift: drift, Writers: 2}, io.Discard)
		w.cloud = azure.client(t)
		must(w.server.create(newNode(0, providerIDs()[0])))
		w.start()
		pods := map[string]types.NamespacedName{"\u00c9T\u00c9": {Namespace: "x", Name: "a"}, "\u00e9t\u00e9": {Namespace: "y", Name: "b"}}
		for group, name := range pods {
			id := newIdentity(name, 0)
			id.Spec.ResourceID = spelled(group)
			must(w.server.create(id))
			must(w.server.create(newBinding(name, name.Name, "red")))
			must(w.server.create(newPod(name, nodeName(0), "red")))
		}
		began := time.Now()
		if took := w.allAssigned(2, began.Add(time.Minute)).Sub(began); took > 2*time.Second {
			t.Errorf("assigned after %v", took)
		}
		updates := func() int { return len(azure.World.Log().Find(emulator.Filter{Method: http.MethodPatch})) }
		if w.wait(4 * drift); updates() != 1 {
			t.Errorf("%d updates, want the one that attached it", updates())
		}
		if until := time.Now(); !w.allAssigned(2, until.Add(time.Second)).Equal(until) {
			t.Error("a comparison took it from a pod")
		}
		leave := func(name types.NamespacedName) {
			must(w.server.delete(kindOf(&corev1.Pod{}), name, nil))
			w.wait(2*drift + grace)
		}
		if leave(pods["\u00c9T\u00c9"]); updates() != 1 {
			t.Errorf("%d updates after the first pod has left, want none more: the second needs it", updates()-1)
		}
		if leave(pods["\u00e9t\u00e9"]); updates() != 2 {
			t.Errorf("%d updates after the last pod has left, want one", updates()-1)
		}
		w.mic.stop()
		if cms := listOf[*corev1.ConfigMap](w.server.list); len(cms) != 0 {
			t.Errorf("the ledger still has %v", cms[0].Data)
		}
	})
}
