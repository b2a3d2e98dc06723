// The identities in Azure and in the cluster.
package conformance_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/identity"
)

// Identities that every client's pod may use.
const (
	first       = "first" // has the binding with the highest weight
	second      = "second"
	secret      = "secret"
	certificate = "certificate"
	federated   = "federated"
	quarantined = "quarantined"
	wrongSecret = "wrong-secret"
)

// Identities that each client has for itself, for what can go wrong only once.
const (
	busy  = "busy"  // the metadata service is throttled when the agent asks for it
	ill   = "ill"   // the metadata service fails for it, for an
	sick  = "sick"  // the metadata service fails for it, for the
	late  = "late"  // assigned while the client waits for it
	later = "later" // the same
)

const password = "a-secret-of-the-test"

// named returns an identity's IDs in Azure.
func named(name string) world.Identity {
	return world.Identity{
		ResourceID: "/subscriptions/" + world.DefaultSubscription + "/resourceGroups/demo/providers/" +
			"Microsoft.ManagedIdentity/userAssignedIdentities/" + name,
		ClientID: world.GUID(name + "/client"), PrincipalID: world.GUID(name + "/principal"),
	}
}

func own(name string, c *sdk) world.Identity { return named(name + "-" + plain(c.name)) }

// plain returns a name that Azure and Kubernetes accept.
func plain(name string) string { return strings.ReplaceAll(name, ".", "-") }

func system() world.SystemIdentity {
	return world.SystemIdentity{ClientID: world.GUID("system/client"), PrincipalID: world.GUID("system/principal")}
}

// scenery returns the content of Azure.
func scenery(t *testing.T, clients []*sdk, cluster world.Issuer) world.Document {
	t.Helper()
	doc := world.Default(password)
	doc.Settings.Limits.Enabled = false // many clients run at a time; the agent's own limits stay
	vm := &doc.VirtualMachines[0]
	nodes := system()
	vm.SystemAssigned = &nodes
	ids := []world.Identity{named(first), named(second)}
	for _, c := range clients {
		for _, name := range []string{busy, ill, sick, late, later} {
			ids = append(ids, own(name, c))
		}
	}
	for _, id := range ids {
		doc.Identities = append(doc.Identities, id)
		vm.Identities = append(vm.Identities, id.ResourceID)
	}
	doc.Issuers = []world.Issuer{cluster}
	pair, err := keyPair()
	must(t, err)
	app := func(name string) world.Application {
		id := named(name)
		return world.Application{Name: name, ClientID: id.ClientID, PrincipalID: id.PrincipalID}
	}
	withSecret, withCertificate, keyless, other := app(secret), app(certificate), app(federated), app(wrongSecret)
	withSecret.Secret, other.Secret = password, password
	withCertificate.Certificate = string(pair.cert)
	broker, err := identity.Broker(identityOf(federated, v1.Federated))
	must(t, err)
	keyless.FederatedCredentials = []world.FederatedCredential{{
		Issuer: cluster.Issuer, Subject: identity.BrokerSubject(identity.DefaultBrokerNamespace, broker),
	}}
	doc.Applications = append(doc.Applications, withSecret, withCertificate, keyless, other)
	return doc
}

// identityOf returns the AzureIdentity of that name.
func identityOf(name string, kind v1.IdentityType) *v1.AzureIdentity {
	id := named(name)
	object := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentitySpec{Type: kind, ClientID: id.ClientID},
	}
	if kind == v1.UserAssignedMSI {
		object.Spec.ResourceID = id.ResourceID
		return object
	}
	object.Spec.TenantID = world.DefaultTenant
	if kind == v1.Federated {
		object.Spec.ResourceID = id.ResourceID
	} else {
		object.Spec.ClientPassword = v1.SecretReference{Namespace: namespace, Name: name}
	}
	return object
}

// furnish creates the objects that all clients share.
func (w *stage) furnish(t *testing.T) {
	t.Helper()
	broker, err := identity.Broker(identityOf(federated, v1.Federated))
	must(t, err)
	pair, err := keyPair()
	must(t, err)
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	w.create(t,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: identity.DefaultBrokerNamespace}},
		&corev1.ServiceAccount{ObjectMeta: meta(namespace, "default")},
		&corev1.ServiceAccount{ObjectMeta: meta(identity.DefaultBrokerNamespace, broker)},
		&corev1.Secret{ObjectMeta: meta(namespace, secret), StringData: map[string]string{"clientSecret": password}},
		&corev1.Secret{ObjectMeta: meta(namespace, wrongSecret), StringData: map[string]string{"clientSecret": "not-" + password}},
		&corev1.Secret{ObjectMeta: meta(namespace, certificate), Data: map[string][]byte{"certificate": slices.Concat(pair.cert, pair.key)}},
		&v1.AzurePodIdentityException{
			ObjectMeta: meta(namespace, "excepted"),
			Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": "excepted"}},
		})
	w.grant(t, selector, 10, identityOf(first, v1.UserAssignedMSI))
	for name, kind := range map[string]v1.IdentityType{
		second: v1.UserAssignedMSI, quarantined: v1.UserAssignedMSI, secret: v1.ServicePrincipal, wrongSecret: v1.ServicePrincipal,
		certificate: v1.ServicePrincipalCertificate, federated: v1.Federated,
	} {
		w.grant(t, selector, 1, identityOf(name, kind))
	}
}

func (w *stage) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		must(t, client.IgnoreAlreadyExists(w.api.Create(t.Context(), o)))
	}
}

// grant binds the identity to pods with that label.
func (w *stage) grant(t *testing.T, label string, weight int, id *v1.AzureIdentity) {
	t.Helper()
	w.create(t, id, &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: id.Name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: id.Name, Selector: label, Weight: weight},
	})
}

// arrange creates the pods of a client, and the objects that MIC would write for them.
func (w *stage) arrange(t *testing.T, c *sdk) {
	t.Helper()
	name := plain(c.name)
	c.pod = w.newPod(t, name, map[string]string{v1.BindingLabel: selector})
	c.excepted = w.newPod(t, "excepted-"+name, map[string]string{"app": "excepted"})
	for id, status := range map[string]v1.AzureAssignedIdentityStatus{
		first: {Status: v1.StateAssigned}, second: {Status: v1.StateAssigned},
		quarantined: {Status: v1.StateCreated, Reason: "IdentityNotFound", Message: "set aside by the test"},
	} {
		w.assign(t, c, identityOf(id, v1.UserAssignedMSI), status)
	}
	// The pod's own identities: bound by name to the one pod that has them assigned.
	for id, state := range map[string]string{busy: v1.StateAssigned, sick: v1.StateAssigned, late: v1.StateCreated, later: v1.StateCreated} {
		object := identityOf(id+"-"+name, v1.UserAssignedMSI)
		w.grant(t, selector, 0, object)
		w.assign(t, c, object, v1.AzureAssignedIdentityStatus{Status: state})
	}
}

// assign sets the state of an identity of a client's pod.
func (w *stage) assign(t *testing.T, c *sdk, id *v1.AzureIdentity, status v1.AzureAssignedIdentityStatus) {
	t.Helper()
	object := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: c.pod.name + "-" + namespace + "-" + id.Name, Labels: map[string]string{v1.NodeNameLabel: nodeName},
		},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: c.pod.name, PodNamespace: namespace, NodeName: nodeName,
			AzureIdentityRef: &v1.AzureIdentityCopy{
				APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentity",
				ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name}, Spec: id.Spec,
			},
		},
		Status: status,
	}
	err := w.api.Create(t.Context(), object)
	if apierrors.IsAlreadyExists(err) {
		must(t, w.api.Get(t.Context(), client.ObjectKeyFromObject(object), object))
		object.Status = status
		err = w.api.Update(t.Context(), object)
	}
	must(t, err)
}

// keyPair returns the certificate of the application and its key, both PEM. It makes them once.
var keyPair = sync.OnceValues(func() (pair struct{ cert, key []byte }, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return pair, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pair, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	pair.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pair.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	return pair, err
})
