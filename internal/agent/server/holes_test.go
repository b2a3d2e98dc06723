package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/identity"
)

// The vulnerabilities that were found in AAD Pod Identity v1.8.17 by running it. There is a test
// for each.

const holeIP = "10.9.0.2"

// Hole 1: a pod whose ReplicaSet was called mic-… in MIC's namespace got any identity of the node.
func TestHoleCalledMIC(t *testing.T) {
	w := newWorld(t, nil)
	w.imds.has("nodes-own")
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "mic-5f6b7c8d9-abcde", UID: "uid-mic", Labels: map[string]string{"component": "mic", "app.kubernetes.io/component": "mic"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "mic-5f6b7c8d9"}},
		},
		Spec:   corev1.PodSpec{ServiceAccountName: "aad-pod-id-mic-service-account"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: holeIP, HostIP: "10.0.0.1"},
	}
	w.authorize.SetPod(identity.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels})
	w.attest.Set(p)
	address := w.listen(holeIP)
	for _, more := range []string{"client_id=" + clientID("nodes-own"), "msi_res_id=" + resourceID("nodes-own"), "x=y"} {
		w.get(address, tokenQuery(arm, more)).want(t, 400)
	}
	w.nothingPassedOn()
}

// Hole 2: after SIGTERM the agent removed its rules but did not exit, and pods without an identity
// got the node's. Now the rules stay (package redirect), and a stopping agent issues nothing that
// it would not have issued before, not even on open connections.
func TestHoleLingering(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", holeIP, "one")
	w.imds.has("nodes-own")
	w.pod("mallory", "10.9.0.3", noLabel)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- connections.Serve(ctx, fromLoopback{l}, attest.NewOrigins(), w.server.ServePod, connections.Limits{Total: 16, PerSource: 16}, quiet())
	}()
	n := &neighbors{w, l.Addr().String()}
	request := "GET " + tokenQuery(arm, "client_id="+clientID("nodes-own")) + " HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n"
	var open []net.Conn
	for _, pod := range []string{holeIP, "10.9.0.3"} {
		c := n.dial(pod)
		_, _ = io.WriteString(c, request[:20]) // half a request before, half after
		open = append(open, c)
	}
	close(w.stopping)
	stop()
	for _, c := range open {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, request[20:])
		answer, _ := io.ReadAll(c) // cut off, or refused
		if strings.Contains(string(answer), "access_token") || strings.Contains(string(answer), " 200 ") {
			t.Errorf("a stopping agent answered %s", answer)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if c := n.dialOnce(holeIP); c != nil {
		t.Error("an agent that has ended takes connections")
	}
	w.nothingPassedOn()
}

// Hole 3: block-instance-metadata did not block /metadata/Instance.
func TestHoleBlockedInCase(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.server.BlockInstance = true })
	w.pod("web", holeIP)
	address := w.listen(holeIP)
	for _, path := range []string{
		"/metadata/instance", "/metadata/Instance", "/METADATA/INSTANCE/", "/metadata/iNSTANCE/compute", "/Metadata/Instance/Compute/Location",
		"/metadata/attested/document", "/metadata/Attested/Document/",
	} {
		w.get(address, path+"?api-version=2021-02-01").want(t, 403)
	}
	w.nothingPassedOn()
}

// Hole 4: object_id was ignored, so a pod that named that of another identity got its own token.
func TestHoleForeignObjectID(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", holeIP, "one")
	w.assign("api", "10.9.0.3", "two")
	address := w.listen(holeIP)
	for _, parameter := range []string{"object_id=", "principal_id=", "OBJECT_ID="} {
		w.get(address, tokenQuery(arm, parameter+objectID("two"))).want(t, 400, "Identity not found")
		w.get(address, tokenQuery(arm, parameter+objectID("one"))).want(t, 200)
	}
}

// Hole 5: client_id or a resource id in another case: 404. Metadata: True: 400.
func TestHoleOtherCase(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", holeIP, "one")
	address := w.listen(holeIP)
	for _, more := range []string{
		"client_id=" + strings.ToUpper(clientID("one")), "msi_res_id=" + strings.ToUpper(resourceID("one")),
		"mi_res_id=" + strings.ToLower(resourceID("one")), "Client_Id=" + clientID("one"), "x=y",
	} {
		for _, value := range []string{"true", "True", "TRUE"} {
			w.get(address, tokenQuery(arm, more), "Metadata: "+value).want(t, 200)
		}
	}
}

// Hole 6: case variants, backslashes, %5c, double-encoded and ";" paths under
// /metadata/identity were passed on to IMDS. FuzzRawRequest looks for more.
func TestHoleSpellings(t *testing.T) {
	j := newJudged(t)
	for _, path := range spellings() {
		for _, method := range []string{"GET", "POST", "PUT", "get"} {
			request := method + " " + path + "?api-version=2018-02-01&resource=r HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"
			answer, left := j.send(t, j.mallory, []byte(request))
			if len(left) > 0 {
				t.Errorf("%s %s left as %q", method, path, left[0])
			}
			if !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%s %s was answered %q", method, path, answer)
			}
		}
	}
}

// Hole 7: no cache: with IMDS failing, no request was answered although each pod
// had held a valid token a second earlier.
func TestHoleServiceFailing(t *testing.T) {
	for name, ill := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500":  func(w http.ResponseWriter, _ *http.Request) bool { fail(w, 500, "unknown", ""); return true },
		"429":  func(w http.ResponseWriter, _ *http.Request) bool { fail(w, 429, "too_many", ""); return true },
		"hang": func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.assign("web", holeIP, "one")
			address := w.listen(holeIP)
			first := w.get(address, tokenQuery(arm))
			w.imds.fall(ill)
			for range 20 {
				if got := w.get(address, tokenQuery(arm)); got.status != 200 || first.status != 200 {
					t.Fatalf("got %d %s, want 200 from memory", got.status, got.body)
				}
			}
		})
	}
}

// Other guarantees about what is passed on.

// TestOtherMethods: only GET is passed on. A POST to scheduledevents would restart the machine.
func TestOtherMethods(t *testing.T) {
	j := newJudged(t)
	for _, path := range []string{imds.TokenPath, "/metadata/scheduledevents", "/metadata/instance", "/metadata/attested/document", "/metadata/versions"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "MKCOL", "get"} {
			answer, left := j.send(t, j.excepted, []byte(method+" "+path+"?api-version=2018-02-01&resource=r HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nX-HTTP-Method-Override: GET\r\n\r\n"))
			if len(left) > 0 || !strings.HasPrefix(answer, "HTTP/1.1 405") {
				t.Errorf("%s %s: left %q, answered %q; want 405", method, path, left, answer)
			}
		}
	}
}

func TestForwardedForRefused(t *testing.T) {
	j := newJudged(t)
	for _, path := range []string{imds.TokenPath, "/metadata/instance", "/metadata/scheduledevents"} {
		for _, header := range []string{"X-Forwarded-For: 10.0.0.1", "x-forwarded-for:", "X-FORWARDED-FOR: a\r\nX-Forwarded-For: b"} {
			answer, left := j.send(t, j.excepted, []byte("GET "+path+"?api-version=2018-02-01&resource=r HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n"+header+"\r\n\r\n"))
			if len(left) > 0 || !strings.HasPrefix(answer, "HTTP/1.1 400") {
				t.Errorf("%s with %q: left %q, answered %q; want 400", path, header, left, answer)
			}
		}
	}
}

// TestAttestedBlockedAlone: the attested document can be blocked without the rest of the metadata.
func TestAttestedBlockedAlone(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.server.BlockAttested = true })
	w.pod("web", holeIP)
	address := w.listen(holeIP)
	for path, want := range map[string]int{"/metadata/attested/document": 403, "/Metadata/Attested/DOCUMENT/": 403, "/metadata/instance": 200, "/metadata/scheduledevents": 200} {
		w.get(address, path+"?api-version=2021-02-01").want(t, want)
	}
}

// TestTwoPodsOneAddress: if two pods have an address, neither gets anything until one of them is
// gone.
func TestTwoPodsOneAddress(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", holeIP, "one")
	w.assign("api", holeIP, "two")
	address := w.listen("::ffff:" + holeIP)
	w.get(address, tokenQuery(arm)).want(t, 500)
	w.server.cfg.AttestLimit = time.Minute
	answered := w.asking(address, tokenQuery(arm))
	w.attest.Remove(nameOf("web"))             // before the request arrives or while it waits
	(<-answered).want(t, 200, clientID("two")) // the pod that is left
}

func TestDualStack(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", holeIP, "one")
	w.pod("web", holeIP, func(p *corev1.Pod) {
		p.Status.PodIPs = []corev1.PodIP{{IP: holeIP}, {IP: "fd00::2"}}
	})
	for _, from := range []string{holeIP, "::ffff:" + holeIP, "fd00::2"} {
		if got := w.get(w.listen(from), tokenQuery(arm)); got.status != 200 {
			t.Errorf("from %s: got %d %s, want 200", from, got.status, got.body)
		}
	}
	for _, from := range []string{"10.9.0.3", "fd00::3", "::"} {
		if got := w.get(w.listen(from), tokenQuery(arm)); got.status != 500 {
			t.Errorf("from %s: got %d %s, want 500", from, got.status, got.body)
		}
	}
}

// nothingPassedOn expects that the metadata service got no request.
func (w *world) nothingPassedOn() {
	w.t.Helper()
	for _, r := range w.imds.seen() {
		w.t.Errorf("the metadata service was asked for %s", r.URL)
	}
}
