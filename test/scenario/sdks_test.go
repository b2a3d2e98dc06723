// Applications with real Azure SDKs.
package scenario_test

import (
	"encoding/json"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/emulator/world"
)

// realClients: unmodified applications get their tokens, in every way they can ask. There is a pod
// per SDK, with a container per way. The default chain of azidentity 1.1 gives its first request
// one second, and the kubelet publishes a pod's address only when it has started all containers; so
// that pod has an init container that waits for the first token, as is usual for such clients.
func realClients(s *story) {
	first, second := s.identity("first"), s.identity("second-of-two")
	s.bind(s.ns, "first", first, "sdk", 5)
	s.bind(s.ns, "second", second, "sdk", 1)
	unknown := world.GUID("unknown")
	ways := map[string]way{
		"client-id":      {env: map[string]string{"CLIENT_ID": second.ClientID}, want: second},
		"resource-id":    {env: map[string]string{"RESOURCE_ID": second.ResourceID}, want: second},
		"none":           {want: first},
		"chain":          {env: map[string]string{"DEFAULT_CHAIN": "1"}, want: first},
		"chain-named":    {env: map[string]string{"DEFAULT_CHAIN": "1", "AZURE_CLIENT_ID": second.ClientID}, want: second},
		"wrong":          {env: map[string]string{"CLIENT_ID": unknown}, refused: true},
		"wrong-resource": {env: map[string]string{"RESOURCE_ID": unknownIdentity(foreignAlone).ResourceID}, refused: true},
	}
	// The nodes have both identities before the clients start, because some give the first request
	// only one second in all.
	holder := s.probe(s.ns, "holder", "sdk")
	s.token(holder, "", first)
	s.token(holder, "&client_id="+second.ClientID, second)

	names := map[string][]string{
		azidentity:   {"client-id", "resource-id", "none", "chain", "chain-named", "wrong"},
		azidentity11: {"client-id", "resource-id", "chain", "wrong-resource"},
		adal:         {"client-id", "resource-id", "wrong"},
		nodeClient:   {"client-id", "resource-id", "chain", "wrong"},
	}
	pods := map[string]*corev1.Pod{}
	for client, list := range names {
		var containers []container
		for _, name := range list {
			env := map[string]string{"RESOURCE": strings.TrimSuffix(resource, "/")}
			maps.Copy(env, ways[name].env)
			containers = append(containers, container{name: name, image: imageOf(client), env: env})
		}
		p := podOf(s.ns, strings.ReplaceAll(client, ".", "-"), "sdk", containers...)
		if client == azidentity11 {
			p.Spec.InitContainers = podOf(s.ns, "", "", container{name: "wait", image: imageOf(azidentity), env: map[string]string{"RESOURCE": resource}}).Spec.Containers
		}
		s.must(s.Create(s.Context(), p))
		pods[client] = p
	}
	for client, list := range names {
		p := s.finish(pods[client])
		for _, name := range list {
			s.heard(p, name, ways[name])
		}
	}
}

// way is a way to ask for a token, and the required result.
type way struct {
	env     map[string]string
	want    world.Identity
	refused bool
}

// heard checks a client's output.
func (s *story) heard(p *corev1.Pod, name string, w way) {
	s.Helper()
	text := s.logs(s.Context(), p.Namespace, p.Name, name, 0)
	var result struct {
		ClientID     string `json:"clientID"`
		Audience     string `json:"audience"`
		Milliseconds int    `json:"milliseconds"`
		ExpiresIn    int    `json:"expiresIn"`
	}
	err := json.Unmarshal([]byte(text), &result)
	switch {
	case w.refused && err == nil:
		s.Errorf("client %s, %s: it got a token that it must not have: %s", p.Name, name, text)
	case w.refused && !strings.Contains(text, "Identity not found"):
		s.Errorf("client %s, %s: the refusal has no reason: %s", p.Name, name, text)
	case w.refused:
	case err != nil:
		s.Errorf("client %s, %s: %s", p.Name, name, text)
	case result.ClientID != w.want.ClientID || strings.TrimSuffix(result.Audience, "/") != strings.TrimSuffix(resource, "/"):
		s.Errorf("client %s, %s: %s; want identity %s", p.Name, name, text, w.want.ClientID)
	case result.ExpiresIn < 60*60:
		s.Errorf("client %s, %s: believes that the token expires in %d s", p.Name, name, result.ExpiresIn)
	default:
		s.Logf("client %s, %s: token after %d ms", p.Name, name, result.Milliseconds)
	}
}
