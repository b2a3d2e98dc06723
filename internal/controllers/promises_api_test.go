package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/reason"
)

// TestPromises covers what users of v1.8.17 missed.
func TestPromises(t *testing.T) {
	runStories(t, startServer(t), "", stories{
		{"there during an update", thereDuringUpdate},
		{"there while Azure fails", thereWhileFailing},
		{"one write in a flood", oneWrite},
		{"many identities", manyIdentities},
		{"comes back in time", comesBack},
		{"made again, old ids", madeAgainOldIDs},
		{"put back silently", putBack},
		{"before any pod", beforeAnyPod},
		{"wrong client id", wrongClientID},
	})
}

// calls returns the number of calls to Azure so far.
func (w *world) calls() int { return len(w.cloud.Calls()) }

func (w *world) wantCalls(want int, why string) {
	w.t.Helper()
	if n := w.calls(); n != want {
		w.t.Errorf("%d calls of Azure, want %d: %s", n, want, why)
	}
}

func thereDuringUpdate(t *testing.T, w *world) {
	w.managed("red", "blue")
	w.start()
	w.pod("first", "red")
	w.waitState("first", v1.StateAssigned)
	w.cloud.SetDuration(time.Hour)
	w.pod("slow", "blue")
	w.waitState("slow", v1.StateCreated)
	w.eventually("update in flight", func() string {
		if !w.cloud.Busy(w.group) {
			return "none"
		}
		return ""
	})
	before := w.calls()
	w.pod("quick", "red")
	w.waitState("quick", v1.StateAssigned)
	w.wantCalls(before, "none for what is there")
}

func thereWhileFailing(t *testing.T, w *world) {
	w.managed("red", "blue")
	w.config.Attachment.RetryInterval = time.Hour
	w.start()
	w.pod("first", "red")
	w.waitState("first", v1.StateAssigned)
	w.cloud.FailNext(fmt.Errorf("Azure is away"))
	w.pod("stuck", "blue")
	w.eventually("failure", func() string {
		if w.patches() < 2 {
			return "none yet"
		}
		return ""
	})
	w.pod("quick", "red")
	if got := w.waitState("quick", v1.StateAssigned); got.Status.Reason != "" {
		t.Errorf("status %+v", got.Status)
	}
}

// oneWrite counts the watch events of objects, most of which are written only once, as Assigned.
func oneWrite(t *testing.T, w *world) {
	const pods = 300
	w.managed("red")
	w.cloud.SetDuration(time.Second)
	for i := range pods {
		w.create(w.newPod(fmt.Sprintf("p%d", i), "red", w.nodes[i%2]))
	}
	watcher := w.watch()
	w.start()
	writes := 0
	for assigned := 0; assigned < pods; {
		select {
		case e := <-watcher.ResultChan():
			got, ok := e.Object.(*v1.AzureAssignedIdentity)
			if !ok || e.Type == watch.Error {
				t.Fatalf("watch: %+v", e.Object)
			}
			writes++
			if got.Status.Status == v1.StateAssigned {
				assigned++
			}
		case <-time.After(waitLimit):
			t.Fatalf("%d of %d", assigned, pods)
		}
	}
	if writes > pods+pods/3 {
		t.Errorf("%d writes for %d objects", writes, pods)
	}
	w.wantPatches(1, "for a cluster that was there before MIC")
}

func manyIdentities(t *testing.T, w *world) {
	const identities = 160 // one update takes at most 150
	for i := range identities {
		name := fmt.Sprintf("id%d", i)
		w.managed(name)
		w.create(w.newPod("p-"+name, name, w.nodes[0]))
	}
	w.start()
	w.eventually("all there", func() string {
		if n := len(w.has()); n != identities {
			return fmt.Sprintf("%d of %d", n, identities)
		}
		return ""
	})
	for _, call := range w.cloud.Calls() {
		if n := len(call.Attach) + len(call.Detach); n > compute.MaxPerPatch {
			t.Errorf("%d identities in one update", n)
		}
	}
}

func comesBack(t *testing.T, w *world) {
	w.managed("red")
	w.config.Attachment.Grace = time.Hour
	w.start()
	w.delete(w.pod("first", "red"))
	w.waitNone("first")
	pod := w.pod("second", "red")
	w.waitState("second", v1.StateAssigned)
	before := w.calls()
	w.delete(pod)
	w.waitNone("second")
	w.pod("third", "red")
	w.waitState("third", v1.StateAssigned)
	w.wantCalls(before, "none for a job that comes back")
}

// madeAgainOldIDs is a scale set that keeps showing the old IDs of an identity that was deleted and
// recreated. Two signs remain: the AzureIdentity, which its owner corrects, and the identity itself
// on Azure.
func madeAgainOldIDs(_ *testing.T, w *world) {
	w.cloud.KeepStaleIDs(true)
	w.cloud.AddIdentities(resourceID("red"))
	id, _ := w.identity("red")
	id.Spec.ClientID, _ = w.cloud.IDsOf(resourceID("red"))
	w.must(w.client.Update(w.t.Context(), id))
	w.config.DriftInterval = 50 * time.Millisecond
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.cloud.DeleteIdentity(resourceID("red"))
	w.cloud.AddIdentities(resourceID("red"))
	client, _ := w.cloud.IDsOf(resourceID("red"))
	id.Spec.ClientID = client // as its owner would do
	w.must(w.client.Update(w.t.Context(), id))
	w.eventually("the new identity", func() string {
		have, err := w.cloud.Get(w.t.Context(), w.group)
		w.must(err)
		if got := have.ClientIDs[resourceID("red")]; got != client {
			return fmt.Sprintf("has %q, want %q", got, client)
		}
		return ""
	})
}

func putBack(t *testing.T, w *world) {
	w.managed("red")
	w.config.DriftInterval = 50 * time.Millisecond
	w.start()
	w.pod("p", "red")
	before := w.waitState("p", v1.StateAssigned)
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("foreign")}})
	w.waitHas("foreign", "red")
	if after := w.waitState("p", v1.StateAssigned); after.ResourceVersion != before.ResourceVersion {
		t.Error("the pod's object was written for what was put back in a moment")
	}
}

func beforeAnyPod(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"), resourceID("blue"))
	w.config.Attachment.Grace = 0
	red, _ := w.identity("red")
	red.Annotations = map[string]string{v1.PreassignAnnotation: "rg/" + w.group.Name}
	w.must(w.client.Update(t.Context(), red))
	blue, _ := w.identity("blue")
	blue.Annotations = map[string]string{v1.PreassignAnnotation: "rg/another"}
	w.must(w.client.Update(t.Context(), blue))
	w.start()
	w.waitHas("red")
	before := w.calls()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.wantCalls(before, "none for what was there before the pod")
	w.delete(w.newPod("p", "red", w.nodes[0]))
	w.waitNone("p")
	if have := w.has(); !slices.Equal(have, []string{"red"}) {
		t.Errorf("has %v after the pod", have)
	}
	red.Annotations = nil
	w.must(w.client.Update(t.Context(), red))
	w.waitHas()
}

func wrongClientID(t *testing.T, w *world) {
	w.managed("red")
	wrong := w.newIdentity("wrong", "red")
	wrong.Spec.ClientID = "99999999-0000-0000-0000-000000000000"
	w.create(wrong)
	w.binding("wrong", "wrong")
	w.config.DriftInterval = 50 * time.Millisecond
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.pod("q", "wrong")
	w.waitReason("q", reason.ClientIDMismatch.Name())
	reads := func() (n int) {
		for _, call := range w.cloud.Calls() {
			if call.Operation == compute.GetVMSS {
				n++
			}
		}
		return n
	}
	before := reads()
	w.eventually("some comparisons", func() string {
		if n := reads() - before; n < 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	w.wantPatches(1, "a wrong AzureIdentity takes no identities off the machines")
}
