// Package federation says what a federated identity (type 3) needs besides the
// AzureIdentity: its broker in the cluster, and on Azure the federated credential
// that trusts the broker. It holds no client.
package federation

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

const (
	// ManagedByLabel on a broker is ManagedBy; MIC removes no others.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy marks a ServiceAccount that podid created, either MIC or the command line.
	ManagedBy = "podid"
	// BrokerOfAnnotation names a broker's identity, for people.
	BrokerOfAnnotation = "aadpodidentity.k8s.io/broker-of"
)

// Account is the ServiceAccount of that name that stands for an identity. It is
// mounted nowhere and bound to no role.
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
