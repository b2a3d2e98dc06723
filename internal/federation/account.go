// The names of brokers' ServiceAccounts.

package federation

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

const (
	// ManagedByLabel is ManagedBy on brokers that podid created. MIC removes no others.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy marks a ServiceAccount that MIC or the command line created.
	ManagedBy = "podid"
	// BrokerOfAnnotation names a broker's identity, for operators.
	BrokerOfAnnotation = "aadpodidentity.k8s.io/broker-of"
)

// Account returns the ServiceAccount of that name that represents an identity. No pod mounts it and
// no role is bound to it.
func Account(id *v1.AzureIdentity, namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Labels:      map[string]string{ManagedByLabel: ManagedBy},
			Annotations: map[string]string{BrokerOfAnnotation: id.Namespace + "/" + id.Name},
		},
		AutomountServiceAccountToken: new(false),
	}
}
