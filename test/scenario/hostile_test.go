// A pod, and a tenant, that try to get what is not theirs.
package scenario_test

import (
	"context"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
)

// attempt is one request of a hostile pod, and the required result.
type attempt struct {
	name    string
	request request
	status  int // 0: no HTTP answer
}

// hostilePod: a pod without any identity, next to one that has one, tries every trick known. It
// gets no token, every answer has the expected status, and no request reaches the metadata service.
func hostilePod(s *story) {
	id := s.identity("coveted")
	s.bind(s.ns, "coveted", id, "coveted", 0)
	victim, mallory := s.probe(s.ns, "victim", "coveted"), s.probe(s.ns, "mallory", "")
	s.token(victim, "", id)

	attempts := slicesOf(oddSpellings(), oddRequests(id), otherIdentityPaths(), otherDoors(mallory, victim, id))
	requests := make([]request, len(attempts))
	for i, a := range attempts {
		requests[i] = a.request
	}
	since := s.mark()
	for i, a := range s.ask(mallory, requests...) {
		if a.Status != attempts[i].status {
			s.Errorf("%s: %s, want %d", attempts[i].name, a, attempts[i].status)
		}
		if a.Claims != nil || strings.Contains(a.Body, "token)") {
			s.Errorf("%s: there was a token in the answer, with claims %v", attempts[i].name, a.Claims)
		}
		if server := a.Header["Server"]; server != "" {
			s.Errorf("%s: the answer came from %s", attempts[i].name, server)
		}
		if a.Status == 0 && a.Error != "refused" && a.Error != "unreachable" {
			s.Errorf("%s: %s; want refused", attempts[i].name, a)
		}
		if a.TookMS > quick {
			s.Errorf("%s took %d ms", attempts[i].name, a.TookMS)
		}
	}
	for _, r := range s.requests(since, world.Filter{Surface: "imds"}) {
		s.Errorf("the metadata service saw %s %s?%s, status %d, %v", r.Method, r.Path, r.Query, r.Status, r.Details)
	}
}

func slicesOf(lists ...[]attempt) []attempt {
	var all []attempt
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// oddSpellings are other spellings of the token path. The agent answers the few that are equivalent
// (400, because this pod has no identity) and rejects the others.
func oddSpellings() []attempt {
	query := strings.TrimPrefix(tokenAsk, tokenPath)
	var list []attempt
	for path, status := range map[string]int{
		tokenPath:                                         400,
		tokenPath + "/":                                   400,
		strings.ToUpper(tokenPath):                        400,
		"http://169.254.169.254" + tokenPath:              400,
		"http://elsewhere.example" + tokenPath:            400,
		"//metadata/identity/oauth2/token":                404,
		"/metadata//identity/oauth2/token":                404,
		"/metadata/identity/oauth2//token":                404,
		"/metadata/identity/oauth2/token//":               404,
		"/metadata/./identity/oauth2/token":               404,
		"/metadata/instance/../identity/oauth2/token":     404,
		"/metadata/instance/%2e%2e/identity/oauth2/token": 404,
		"/x/../metadata/identity/oauth2/token":            404,
		"/metadata/identity%2foauth2/token":               404,
		"/metadata/identity%2Foauth2%2Ftoken":             404,
		"/metadata/identity/oauth2/%74oken":               404,
		"/metadata/identity/oauth2/%2574oken":             404,
		"/metadata%5cidentity%5coauth2%5ctoken":           404,
		`/metadata\identity\oauth2\token`:                 404,
		"/metadata/identity;x=1/oauth2/token":             404,
		"/metadata/identity/oauth2/token;x=1":             404,
		"/metadata/identity/oauth2/token%00":              404,
		"/metadata/identity/oauth2/token%20":              404,
		"/metadata/identity/oauth2/token/x":               404,
		"/metadata/instance/identity/oauth2/token%2f":     404,
		"/%6detadata/identity/oauth2/token":               404,
		"/metadata/ıdentity/oauth2/token":                 404,
	} {
		list = append(list, attempt{"path " + path, get(path + query), status})
	}
	return list
}

// oddRequests are unusual requests to the token path.
func oddRequests(id world.Identity) []attempt {
	list := []attempt{
		{"another's identity", get(tokenAsk + "&client_id=" + id.ClientID), 400},
		{"the nodes' identity", get(tokenAsk + "&client_id=" + systemIdentity().ClientID), 400},
		{"no header", get(tokenAsk, withoutMetadata), 400},
		{"header of another value", get(tokenAsk, withoutMetadata, "Metadata: yes"), 400},
		{"header twice", get(tokenAsk, "Metadata: true"), 400},
		{"X-Forwarded-For", get(tokenAsk, "X-Forwarded-For: 10.200.0.10"), 400},
		{"x-forwarded-for, empty", get(tokenAsk, "x-forwarded-for:"), 400},
		{"resource twice", get(tokenAsk + "&resource=https://vault.azure.net"), 400},
		{"no resource", get(tokenPath + "?api-version=2018-02-01"), 400},
		{"no api-version", get(tokenPath + "?resource=" + resource), 400},
		{"two selectors", get(tokenAsk + "&client_id=" + id.ClientID + "&mi_res_id=" + id.ResourceID), 400},
		{"headers of the host's path", get(tokenAsk, "podns: story-a-hostile-pod", "podname: victim"), 400},
		{"another host", get(tokenAsk, "X-Original-URL: /metadata/identity/info", "X-Rewrite-URL: /metadata/identity/info"), 400},
		{"HTTP/1.0", request{To: metadata, Send: "GET " + tokenAsk + " HTTP/1.0\r\nMetadata: true\r\n\r\n", TimeoutMS: 5000}, 400},
		{"a second request behind the first", request{
			To: metadata, TimeoutMS: 5000,
			Send: "GET " + tokenAsk + " HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET " +
				tokenAsk + " HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n",
		}, 400},
	}
	for _, method := range []string{"POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "PROPFIND", "get"} {
		list = append(list, attempt{"method " + method, speak(method, tokenAsk), 405})
	}
	return list
}

// otherIdentityPaths belong to the machine. Some would issue its credentials.
func otherIdentityPaths() []attempt {
	var list []attempt
	for _, path := range []string{
		"/metadata/identity", "/metadata/identity/", "/metadata/identity/info?api-version=2018-02-01",
		"/metadata/identity/issuecredential?cred-api-version=1.0", "/metadata/identity/credential?cred-api-version=1.0",
		"/metadata/identity/getplatformmetadata?cred-api-version=2.0", "/metadata/identity/getPlatformMetadata?cred-api-version=2.0",
		"/Metadata/Identity/IssueCredential", "/metadata/identity/oauth2", "/metadata/identity/oauth2/authorize",
	} {
		list = append(list,
			attempt{"GET " + path, get(path), 404},
			attempt{"POST " + path, speak("POST", path, "Content-Length: 0"), 404},
			attempt{"GET without header " + path, get(path, withoutMetadata), 404})
	}
	return append(list,
		attempt{"acknowledges an event", speak("POST", "/metadata/scheduledevents?api-version=2020-07-01", "Content-Length: 0"), 405},
		attempt{"another cloud", get("/latest/meta-data/iam/security-credentials/"), 404},
		attempt{"root", get("/"), 404},
		attempt{"metadata", get("/metadata"), 404})
}

// agentAddress is the target of the redirect.
const agentAddress = "169.254.171.79:2579"

// otherDoors are ways around the token path: the agent's own address, the path for the host, the
// node's ports.
func otherDoors(mallory, victim *corev1.Pod, id world.Identity) []attempt {
	to := func(r request, address string) request {
		r.To, r.TimeoutMS = address, 3000
		return r
	}
	posing := get("/host/token?api-version=2018-02-01&resource="+resource+"&client_id="+id.ClientID,
		"podns: "+victim.Namespace, "podname: "+victim.Name)
	node, victims := mallory.Status.HostIP, victim.Status.PodIP
	return []attempt{
		{"the host's path", posing, 404},
		{"the agent's address", to(get(tokenAsk), agentAddress), 0},
		{"the agent's address, the host's path", to(posing, agentAddress), 0},
		{"the agent's port on the node", to(posing, net.JoinHostPort(node, "2579")), 0},
		{"the agent's port at the victim", to(posing, net.JoinHostPort(victims, "2579")), 0},
		{"another port of the metadata service", to(get(tokenAsk), "169.254.169.254:8080"), 0},
	}
}

// within is how long a refusal that waits for MIC and Azure may take, in milliseconds.
const within = 20_000

// theft is one way in which a tenant requests an identity that is not its own.
type theft struct {
	name string
	spec v1.AzureIdentitySpec
}

// hostileTenant: a tenant who may create identities, bindings and pods in one namespace requests
// identities that were never granted to that namespace. Azure checks roles: MIC may assign what is
// in the sandbox's resource group. Every attempt is refused for good, with an Event that names the
// reason, and the rightful pod keeps its token throughout.
func hostileTenant(s *story) {
	tenant := s.ns + "-evil"
	s.namespace(tenant)
	vault, own := s.identity("vault"), s.identity("own")
	s.bind(s.ns, "vault", vault, "vault", 0)
	victim := s.probe(s.ns, "victim", "vault")
	s.token(victim, "", vault)
	kubelet, stranger := unknownIdentity(foreignKubelet), strangerIdentity()
	s.labelNodes(v1.KubeletIdentityLabel, kubelet.ClientID)

	thefts := []theft{
		{"kubelet", v1.AzureIdentitySpec{ResourceID: kubelet.ResourceID}},
		{"kubelet-client", v1.AzureIdentitySpec{ResourceID: own.ResourceID, ClientID: kubelet.ClientID}},
		{"stranger", v1.AzureIdentitySpec{ResourceID: stranger.ResourceID, ClientID: stranger.ClientID}},
		{"victims-client", v1.AzureIdentitySpec{ResourceID: own.ResourceID, ClientID: vault.ClientID}},
		{"system", v1.AzureIdentitySpec{ResourceID: own.ResourceID, ClientID: systemIdentity().ClientID}},
	}
	pods := map[string]*corev1.Pod{}
	for _, t := range thefts {
		meta := metav1.ObjectMeta{Namespace: tenant, Name: t.name}
		s.must(s.Create(s.Context(), &v1.AzureIdentity{ObjectMeta: meta, Spec: t.spec}))
		s.must(s.Create(s.Context(), &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: t.name, Selector: t.name}}))
		pods[t.name] = s.pod(tenant, t.name, t.name, container{name: "probe", image: probeImage})
	}
	for _, t := range thefts {
		pod := s.awaitPod(pods[t.name], "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
		s.refused(pod, "", 403, "", within)
		s.warned(pod)
		s.token(victim, "", vault)
	}
	// A selector of another namespace, and a binding to another namespace's identity by name, have
	// no effect here.
	s.must(s.Create(s.Context(), &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "vault"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "vault", Selector: "vault"},
	}))
	s.refused(s.probe(tenant, "selector", "vault"), "", 404, "", within)
	s.policyDecides(victim, vault, tenant)
}

// policyDecides: MIC may assign the victim's identity, so without a policy any namespace that names
// it gets it. With the policy the next request is refused, the object cannot be created any more,
// and the victim is not affected.
func (s *story) policyDecides(victim *corev1.Pod, vault world.Identity, tenant string) {
	s.bind(tenant, "copy", vault, "copy", 0)
	thief := s.probe(tenant, "thief", "copy")
	s.token(thief, "", vault)
	policy := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{
		Mode: v1.PolicyEnforce,
		Rules: []v1.PolicyRule{
			{Name: "victim", Namespaces: []string{s.ns}, Identities: []v1.PolicyIdentities{{ResourceIDs: []string{vault.ResourceID}}}},
			{Name: "system", Namespaces: []string{release, metav1.NamespaceSystem}, PlainIMDS: true},
		},
	}}
	s.must(s.Create(s.Context(), policy))
	s.Cleanup(func() {
		if err := s.Delete(context.WithoutCancel(s.Context()), policy); err != nil {
			s.Error(err)
		}
	})
	s.unassigned(thief)
	s.refused(thief, "", 403, "AzureIdentityPolicy default", within)
	s.token(victim, "", vault)
	err := s.Create(s.Context(), &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "again"}, Spec: v1.AzureIdentitySpec{ResourceID: vault.ResourceID},
	})
	if err == nil || !strings.Contains(err.Error(), "no rule of AzureIdentityPolicy default allows this identity") {
		s.Errorf("an identity that the policy forbids can be made: %v", err)
	}
}

// warned waits until the pod has a Warning Event.
func (s *story) warned(p *corev1.Pod) {
	s.Helper()
	ctx, cancel := s.soon("pod " + p.Name + " has a Warning")
	defer cancel()
	s.must(follow(ctx, s.cluster, &corev1.EventList{}, func(_ watch.EventType, e *corev1.Event) bool {
		return e.Type == corev1.EventTypeWarning && e.InvolvedObject.Kind == "Pod" && e.InvolvedObject.Name == p.Name
	}, client.InNamespace(p.Namespace)))
}

// labelNodes puts a label on all nodes until the story ends.
func (s *story) labelNodes(name, value string) {
	s.Helper()
	patch := func(ctx context.Context, text string) error {
		var nodes corev1.NodeList
		if err := s.List(ctx, &nodes); err != nil {
			return err
		}
		for i := range nodes.Items {
			raw := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"`+name+`":`+text+`}}}`))
			if err := s.Patch(ctx, &nodes.Items[i], raw); err != nil {
				return err
			}
		}
		return nil
	}
	s.must(patch(s.Context(), `"`+value+`"`))
	s.Cleanup(func() {
		if err := patch(context.WithoutCancel(s.Context()), "null"); err != nil {
			s.Error(err)
		}
	})
}
