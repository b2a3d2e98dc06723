// Addresses that pass from pod to pod.

package scenario_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/emulator/world"
)

// The number of pods that come and go, in all and at a time, and of addresses for them.
const (
	churned   = 24
	atATime   = 3
	addresses = 4
)

// addressesReused: pods of two identities come and go on a node with four free addresses, and each
// asks for a token as soon as it runs. None ever gets a token of the pod that had its address
// before.
func addressesReused(s *story) {
	if _, ok := s.plane.Cilium(); ok {
		s.Skip("Cilium gives out addresses itself, and not in an order in which pods would share four")
	}
	ids := []world.Identity{s.identity("odd"), s.identity("even")}
	var first *corev1.Pod
	for i, name := range []string{"odd", "even"} {
		s.bind(s.ns, name, ids[i], name, 0)
		first = s.probe(s.ns, "first-"+name, name)
		s.token(first, "", ids[i]) // puts the identity on the nodes
	}
	node := first.Spec.NodeName
	s.leaveAddresses(node, netip.PrefixFrom(netip.MustParseAddr(first.Status.PodIP), 24), addresses)

	asked, err := json.Marshal([]request{get(tokenAsk), get(tokenAsk), get(tokenAsk)})
	s.must(err)
	users := map[string]map[string]bool{} // by address: the identities of its pods
	for round := range churned / atATime {
		var pods []*corev1.Pod
		for i := range atATime {
			n := round*atATime + i
			name := []string{"odd", "even"}[n%2]
			p := podOf(s.ns, fmt.Sprintf("pod-%d", n), name, container{name: "probe", image: probeImage})
			p.Spec.NodeName, p.Spec.Containers[0].Args = node, []string{string(asked)}
			s.must(s.Create(s.Context(), p))
			pods = append(pods, p)
		}
		for i, p := range pods {
			want := ids[(round*atATime+i)%2]
			p = s.finish(p)
			s.checkOwn(p, want)
			if users[p.Status.PodIP] == nil {
				users[p.Status.PodIP] = map[string]bool{}
			}
			users[p.Status.PodIP][want.ClientID] = true
			if (round+i)%2 == 0 { // the others stay as finished pods, with the address in their status
				s.must(s.Delete(s.Context(), p))
			}
		}
	}
	both := 0
	for _, by := range users {
		if len(by) == 2 {
			both++
		}
	}
	if both < addresses/2 { // pods of earlier stories may have freed a few more
		s.Errorf("of %d addresses, %d were used by pods of both identities: the story proves nothing", len(users), both)
	}
}

// checkOwn checks a pod's answers: a token in the end, and never one of another identity.
func (s *story) checkOwn(p *corev1.Pod, want world.Identity) {
	s.Helper()
	var answers []answer
	said := s.logs(s.Context(), p.Namespace, p.Name, "probe", 100)
	s.must(json.NewDecoder(strings.NewReader(said)).Decode(&answers))
	got := false
	for _, a := range answers {
		if a.Status == 200 && a.Claims["appid"] != want.ClientID {
			s.Errorf("pod %s at %s got a token of another identity: %v", p.Name, p.Status.PodIP, a.Claims["appid"])
		}
		got = got || a.Status == 200
	}
	if !got {
		s.Errorf("pod %s at %s got no token: %v", p.Name, p.Status.PodIP, answers)
	}
}

// leaveAddresses reserves all but n of a node's free pod addresses until the story ends. The plugin
// host-local keeps reservations as files.
func (s *story) leaveAddresses(node string, pods netip.Prefix, n int) {
	s.Helper()
	dir := filepath.Join(s.sandbox.Layout().Node(node), "cni", "networks", "podid")
	var taken []string
	s.Cleanup(func() {
		for _, file := range taken {
			if err := os.Remove(file); err != nil {
				s.Error(err)
			}
		}
	})
	for a := pods.Masked().Addr().Next().Next(); pods.Contains(a.Next()); a = a.Next() {
		file := filepath.Join(dir, a.String())
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if os.IsExist(err) {
			continue
		}
		s.must(err)
		if n > 0 { // this one stays free
			n--
			s.must(f.Close())
			s.must(os.Remove(file))
			continue
		}
		taken = append(taken, file)
		_, err = f.WriteString("story\r\neth0")
		s.must(err)
		s.must(f.Close())
	}
}
