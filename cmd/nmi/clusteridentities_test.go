package main

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

const kubeletClient = "7C6D0F7E-0D0B-4A3F-9A51-0F4D3A1B2C3D"

// fixedNode is the agent's node, which changes its labels.
type fixedNode []map[string]string

func (n fixedNode) Watch(_ context.Context, tell func(*corev1.Node)) {
	for _, labels := range n {
		tell(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: labels}})
	}
}

func (fixedNode) SetTaints(context.Context, *corev1.Node, []corev1.Taint) error { return nil }

func TestClusterIdentities(t *testing.T) {
	const resource = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/MC/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mic"
	o := clusterOptions{list: resource + ", 11111111-1111-4111-8111-11111111111A"}
	if err := o.validate(); err != nil {
		t.Fatal(err)
	}
	own := newClusterIdentities(o.set())
	has := func(clientID, resourceID string, want bool) {
		t.Helper()
		if got := own.has(clientID, resourceID); got != want {
			t.Errorf("%q %q: %v", clientID, resourceID, got)
		}
	}
	has("", "", false)
	has("11111111-1111-4111-8111-11111111111a", "", true)
	has("", strings.ToLower(resource), true)
	has(strings.ToLower(kubeletClient), "", false)

	told := 0
	learning{fixedNode{{v1.KubeletIdentityLabel: kubeletClient}}, own}.Watch(t.Context(), func(*corev1.Node) { told++ })
	has(strings.ToLower(kubeletClient), "", true)
	learning{fixedNode{nil}, own}.Watch(t.Context(), func(*corev1.Node) { told++ })
	has(strings.ToLower(kubeletClient), "", false)
	has("", "", false)
	if told != 2 {
		t.Errorf("the taint remover was told of %d of 2 nodes", told)
	}
	if err := (&clusterOptions{list: "kubelet"}).validate(); err == nil || !strings.Contains(err.Error(), "--cluster-identities: \"kubelet\" is neither a client ID") {
		t.Errorf("error %v", err)
	}
}
