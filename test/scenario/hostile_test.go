// The story of a pod that wants what is not its own.
package scenario_test

import (
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/emulator/world"
)

// attempt is one thing that a hostile pod tries, and what must come of it.
type attempt struct {
	name    string
	request request
	status  int // 0: no HTTP answer
}

// hostilePod: a pod without any identity, next to one that has one, tries what it can think of. It gets no token, every
// answer has the status that it should have, and the metadata service never hears of it.
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

// oddSpellings of the token path: the few that are its own are answered by the agent (this pod has no identity: 400),
// the others are nothing.
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

// oddRequests to the token path.
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

// otherIdentityPaths belong to the machine: some would mint its credentials.
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

// agentAddress is where the redirect leads to.
const agentAddress = "169.254.171.79:2579"

// otherDoors: the agent's own address, the host's path, the node's ports.
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
