// Which pod gets which token.
package scenario_test

import (
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox"
)

// podGetsToken is the main case: a pod with the Azure SDK gets a token of the identity that a
// binding grants, and Azure accepts it. A pod without a binding is refused at once.
func podGetsToken(s *story) {
	demo := sandbox.Identities()[0]
	id := world.Identity{ResourceID: demo.ResourceID, ClientID: demo.ClientID, PrincipalID: demo.PrincipalID}
	since := s.mark()
	s.bind(s.ns, "demo", id, "demo", 0)
	bound := s.demoPod("bound", "demo")
	unbound := s.demoPod("unbound", "")

	said := s.events(s.finish(bound), "token", "arm")
	claims, _ := said["token"]["claims"].(map[string]any)
	for name, want := range map[string]any{
		"appid": id.ClientID, "oid": id.PrincipalID, "xms_mirid": id.ResourceID, "tid": sandbox.TenantID,
	} {
		if got, _ := claims[name].(string); !strings.EqualFold(got, want.(string)) {
			s.Errorf("the token's claim %s is %q, want %q", name, got, want)
		}
	}
	if text, _ := said["arm"]["text"].(string); !strings.Contains(text, demo.Name) {
		s.Errorf("the pod got from Azure: %s; want that %s is on the scale set", text, demo.Name)
	}
	if !s.changed(since, "added", id) {
		s.Errorf("ARM was not asked to put %s on the nodes", demo.Name)
	}

	refused := s.events(s.finish(unbound), "refused")["refused"]
	if text, _ := refused["text"].(string); !strings.Contains(text, "Identity not found") {
		s.Errorf("the pod without a binding got: %s", text)
	}
	if took, _ := refused["tookMS"].(float64); took > quick {
		s.Errorf("the pod without a binding was refused after %v ms only", took)
	}
}

// exception: pods that an exception names see what a plain VM sees, with the VM's identities. Its
// labels have no effect in another namespace.
func exception(s *story) {
	other := s.ns + "-other"
	s.namespace(other)
	s.must(s.Create(s.Context(), &v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "plain"},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": "excepted", "another": "label"}},
	}))
	excepted, lookalike := s.probe(s.ns, "excepted", ""), s.probe(other, "excepted", "")

	system := systemIdentity()
	s.token(excepted, "", world.Identity{ResourceID: "the VM's own", ClientID: system.ClientID, PrincipalID: system.PrincipalID})
	vms := unknownIdentity(foreignAlone)
	since := s.mark()
	s.token(excepted, "&client_id="+vms.ClientID, vms)
	if list := s.requests(since, world.Filter{Surface: "imds", Status: 200}); len(list) != 1 {
		s.Errorf("the metadata service saw %d requests of the excepted pod, want 1", len(list))
	}

	since = s.mark()
	s.refused(lookalike, "", 400, "Identity not found", quick)
	s.refused(lookalike, "&client_id="+vms.ClientID, 400, "Identity not found", quick)
	if list := s.requests(since, world.Filter{Surface: "imds"}); len(list) != 0 {
		s.Errorf("the metadata service saw requests of the pod without an exception: %+v", list)
	}
}

// demoPod runs the application of the demonstration.
func (s *story) demoPod(name, label string) *corev1.Pod {
	s.Helper()
	arm, err := s.sandbox.ARM()
	s.must(err)
	ca := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}, Data: map[string]string{"ca.crt": s.azure.ca}}
	s.must(s.Create(s.Context(), ca))
	p := podOf(s.ns, name, label, container{name: "app", image: "docker.io/podid/demo:dev", env: map[string]string{
		"DEMO_ARM_ENDPOINT": arm, "DEMO_RESOURCE": sandbox.ScaleSetID(), "SSL_CERT_FILE": "/etc/azure/ca.crt",
	}})
	p.Spec.Volumes = []corev1.Volume{{Name: "ca", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
	}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "ca", MountPath: "/etc/azure", ReadOnly: true}}
	s.must(s.Create(s.Context(), p))
	return p
}

// events returns the application's output by kind, and fails if one of the named kinds is missing.
func (s *story) events(p *corev1.Pod, kinds ...string) map[string]map[string]any {
	s.Helper()
	text := s.logs(s.Context(), p.Namespace, p.Name, "", 0)
	events := map[string]map[string]any{}
	for line := range strings.Lines(text) {
		var event map[string]any
		if json.Unmarshal([]byte(line), &event) == nil {
			kind, _ := event["event"].(string)
			events[kind] = event
		}
	}
	for _, kind := range kinds {
		if _, ok := events[kind]; !ok {
			s.Fatalf("pod %s did not tell of %q:\n%s", p.Name, kind, text)
		}
	}
	return events
}
