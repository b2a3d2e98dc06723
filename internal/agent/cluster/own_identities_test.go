package cluster

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

func TestOwnIdentities(t *testing.T) {
	const (
		resource = "/subscriptions/22222222-2222-4222-8222-222222222222/resourcegroups/mc/providers/microsoft.managedidentity/userassignedidentities/mic"
		client   = "11111111-1111-4111-8111-11111111111a"
		kubelet  = "7C6D0F7E-0D0B-4A3F-9A51-0F4D3A1B2C3D"
	)
	own := NewOwnIdentities(map[string]bool{resource: true, client: true})
	expect := func(clientID, resourceID string, want bool) {
		t.Helper()
		if got := own.Has(clientID, resourceID); got != want {
			t.Errorf("Has(%q, %q) = %v", clientID, resourceID, got)
		}
	}
	expect("", "", false)
	expect(client, "", true)
	expect("", resource, true)
	expect(strings.ToLower(kubelet), "", false)
	select {
	case <-own.Known():
		t.Error("known before the node was read")
	default:
	}
	own.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1.KubeletIdentityLabel: kubelet}}})
	<-own.Known()
	expect(strings.ToLower(kubelet), "", true)
	own.SetNode(&corev1.Node{})
	expect(strings.ToLower(kubelet), "", false)
	expect("", "", false)
}
