// The object that a broker is: MIC and the command line make the same one.

package identity

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

const (
	// ManagedByLabel on a broker is ManagedBy; MIC removes no others.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy says that podid made it, be it MIC or the command line.
	ManagedBy = "podid"
	// BrokerOfAnnotation names a broker's identity, for people.
	BrokerOfAnnotation = "aadpodidentity.k8s.io/broker-of"
)

// BrokerAccount is the ServiceAccount of that name that stands for an identity.
// It is mounted nowhere and bound to no role.
func BrokerAccount(id *v1.AzureIdentity, namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Labels:      map[string]string{ManagedByLabel: ManagedBy},
			Annotations: map[string]string{BrokerOfAnnotation: key(id)},
		},
		AutomountServiceAccountToken: new(false),
	}
}
