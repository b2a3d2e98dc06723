// API clients with the identities that the chart's roles and policies are about.

package chart

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

// config returns the configuration of an administrator's client.
func (c cluster) config(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// user returns a client with the identity of a user.
func (c cluster) user(t *testing.T, name string, groups ...string) client.Client {
	t.Helper()
	config := c.config(t)
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: append(groups, "system:authenticated")}
	return testenv.Client(t, config)
}

// kubelet returns a client with the identity of a node's kubelet.
func (c cluster) kubelet(t *testing.T, node string) client.Client {
	t.Helper()
	return c.user(t, "system:node:"+node, "system:nodes")
}

// serviceAccount returns a client of a user who impersonates a ServiceAccount. Unlike a pod's
// token, such a request names no pod.
func (c cluster) serviceAccount(t *testing.T, in, name string) client.Client {
	t.Helper()
	return c.user(t, "system:serviceaccount:"+in+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+in)
}

// agentOn returns a client with the token of NMI's pod on a node.
func (c cluster) agentOn(t *testing.T, node string) client.Client {
	t.Helper()
	return c.program(t, "podid-nmi", "DaemonSet", "podid-nmi", node)
}

// micOn returns a client with the token of MIC's pod on a node.
func (c cluster) micOn(t *testing.T, node string) client.Client {
	t.Helper()
	return c.program(t, "podid-mic", "ReplicaSet", "podid-mic-6d4cf56db6", node)
}

// program creates a pod as its controller does and returns a client with the token that the node's
// kubelet gets for it.
func (c cluster) program(t *testing.T, account, ownerKind, owner, node string) client.Client {
	t.Helper()
	pod := podOf(account, ownerKind, owner, node)
	if err := client.IgnoreAlreadyExists(c.Create(t.Context(), pod)); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	kubelet := c.kubelet(t, node)
	request := &authenticationv1.TokenRequest{}
	testenv.Succeeds(t, "a token of "+pod.Name, func() error { // the node authorizer learns of the pod by its own watch
		request.Spec = authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}
		return kubelet.SubResource("token").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}, request)
	})
	config := rest.AnonymousClientConfig(c.config(t))
	config.BearerToken = request.Status.Token
	return testenv.Client(t, config)
}

// podOf returns a pod of the chart as a controller creates it, with the volume that the admission
// plugin ServiceAccount adds.
func podOf(account, ownerKind, owner, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: account + "-" + node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: ownerKind, Name: owner, UID: "1", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}},
			}}}},
		},
	}
}

// grant gives a user permissions in a namespace.
func (c cluster) grant(t *testing.T, user, in string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	testenv.GrantIn(t, c, user, in, "of-"+user, rules...)
}
