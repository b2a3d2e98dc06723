// The vocabulary of stories: namespaces, identities, bindings, pods, and waiting.
package scenario_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
)

// limit bounds every wait of a story. Most take a second or two; starting pods on a busy machine
// takes longest.
const limit = time.Minute

// story is one story with its own namespace. Its methods fail the test and may be called from its
// goroutine only.
type story struct {
	*testing.T
	*cluster
	ns string
}

// run runs a story in a namespace of the same name.
func (c *cluster) run(t *testing.T, name string, plot func(*story)) {
	t.Run(name, func(t *testing.T) {
		step := c.report.Start("story: " + name)
		s := &story{T: t, cluster: c, ns: "story-" + strings.ToLower(strings.ReplaceAll(name, " ", "-"))}
		t.Cleanup(func() {
			if t.Failed() {
				step.Fail()
				return
			}
			step.Done("")
		})
		s.namespace(s.ns)
		t.Cleanup(func() { // before the namespace goes
			if t.Failed() {
				c.explain(t, s.ns)
			}
		})
		plot(s)
	})
}

// must fails the story on an error.
func (s *story) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// soon returns the context of one wait.
func (s *story) soon(what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(s.Context(), limit, fmt.Errorf("waited %s until %s", limit, what))
}

// namespace creates a namespace, replacing one that an earlier run left, and deletes it after the
// story.
func (s *story) namespace(name string) {
	s.Helper()
	s.gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, &corev1.NamespaceList{})
	s.must(s.Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	s.Cleanup(func() {
		ctx := context.WithoutCancel(s.Context())
		if err := s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); client.IgnoreNotFound(err) != nil {
			s.Error(err)
		}
	})
	ctx, cancel := s.soon("namespace " + name + " can take pods")
	defer cancel()
	s.must(follow(ctx, s.cluster, &corev1.ServiceAccountList{}, func(e watch.EventType, a *corev1.ServiceAccount) bool {
		return e != watch.Deleted && a.Name == "default"
	}, client.InNamespace(name)))
}

// gone deletes an object if it exists, and waits until it is gone.
func (s *story) gone(o client.Object, list client.ObjectList) {
	s.Helper()
	s.must(client.IgnoreNotFound(s.Delete(s.Context(), o)))
	s.none(list, o.GetName()+" is gone", func(other client.Object) bool { return other.GetName() == o.GetName() }, client.InNamespace(o.GetNamespace()))
}

// none waits until no object of the list's kind matches.
func (s *story) none(list client.ObjectList, what string, those func(client.Object) bool, o ...client.ListOption) {
	s.Helper()
	ctx, cancel := s.soon(what)
	defer cancel()
	s.must(s.awaitNone(ctx, list, those, o...))
}

// identity creates a managed identity in Azure that no machine has yet.
func (s *story) identity(name string) world.Identity {
	s.Helper()
	id, err := s.azure.identity(s.Context(), name)
	s.must(err)
	return id
}

// bind creates an AzureIdentity, and binds pods with the label to it.
func (s *story) bind(ns, name string, id world.Identity, label string, weight int) {
	s.Helper()
	meta := metav1.ObjectMeta{Namespace: ns, Name: name}
	s.must(s.Create(s.Context(), &v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{
		Type: v1.UserAssignedMSI, ResourceID: id.ResourceID, ClientID: id.ClientID,
	}}))
	s.must(s.Create(s.Context(), &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{
		AzureIdentity: name, Selector: label, Weight: weight,
	}}))
}

// container is a client as a container of a pod.
type container struct {
	name, image string
	env         map[string]string
}

// pod creates a pod with the containers. The label selects its binding; empty means no label.
func (s *story) pod(ns, name, label string, containers ...container) *corev1.Pod {
	s.Helper()
	p := podOf(ns, name, label, containers...)
	s.must(s.Create(s.Context(), p))
	return p
}

func podOf(ns, name, label string, containers ...container) *corev1.Pod {
	no, yes, second := false, true, int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &second,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		},
	}
	if label != "" {
		p.Labels[v1.BindingLabel] = label
	}
	for _, c := range containers {
		made := corev1.Container{
			Name: c.name, Image: c.image, ImagePullPolicy: corev1.PullNever,
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}
		for name, value := range c.env {
			made.Env = append(made.Env, corev1.EnvVar{Name: name, Value: value})
		}
		p.Spec.Containers = append(p.Spec.Containers, made)
	}
	return p
}

// probe creates a pod that sends requests on demand, and waits until it runs.
func (s *story) probe(ns, name, label string) *corev1.Pod {
	s.Helper()
	p := s.pod(ns, name, label, container{name: "probe", image: probeImage})
	return s.awaitPod(p, "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}

// awaitPod waits until the pod satisfies a condition.
func (s *story) awaitPod(p *corev1.Pod, what string, is func(*corev1.Pod) bool) *corev1.Pod {
	s.Helper()
	ctx, cancel := s.soon("pod " + p.Name + " " + what)
	defer cancel()
	var last *corev1.Pod
	s.must(follow(ctx, s.cluster, &corev1.PodList{}, func(_ watch.EventType, now *corev1.Pod) bool {
		last = now
		return now.Name == p.Name && is(now)
	}, client.InNamespace(p.Namespace)))
	return last
}

// finish waits until all containers of a pod have ended.
func (s *story) finish(p *corev1.Pod) *corev1.Pod {
	s.Helper()
	return s.awaitPod(p, "ends", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

// remove deletes a pod and waits until it is gone.
func (s *story) remove(p *corev1.Pod) {
	s.Helper()
	s.gone(p, &corev1.PodList{})
}

// unassigned waits until the pod has no assigned identity.
func (s *story) unassigned(p *corev1.Pod) {
	s.Helper()
	s.none(&v1.AzureAssignedIdentityList{}, "pod "+p.Name+" has no assigned identity", func(o client.Object) bool {
		a, ok := o.(*v1.AzureAssignedIdentity)
		return ok && a.Spec.Pod == p.Name && a.Spec.PodNamespace == p.Namespace
	})
}

// onNodes waits until the identity is on the nodes, or is not.
func (s *story) onNodes(id world.Identity, want bool) {
	s.Helper()
	ctx, cancel := s.soon(fmt.Sprintf("%s is on the nodes: %t", short(id.ResourceID), want))
	defer cancel()
	if err := s.azure.awaitOnNodes(ctx, id, want); err != nil {
		s.Fatal(errors.Join(context.Cause(ctx), err))
	}
}

func short(resourceID string) string { return resourceID[strings.LastIndex(resourceID, "/")+1:] }

// request is a request that the probe sends, and answer its result; see test/clients/probe.
type request struct {
	To        string `json:"to"`
	Send      string `json:"send"`
	TimeoutMS int64  `json:"timeoutMS"`
	LastsMS   int64  `json:"lastsMS"`
}

type answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header"`
	Body   string            `json:"body"`
	Claims map[string]any    `json:"claims"`
	Error  string            `json:"error"`
	TookMS int64             `json:"tookMS"`
	// Outcomes count what came of a request that was sent again and again.
	Outcomes map[string]int `json:"outcomes"`
}

func (a answer) String() string {
	if a.Status == 0 {
		return fmt.Sprintf("no answer: %s after %d ms", a.Error, a.TookMS)
	}
	return fmt.Sprintf("%d %s after %d ms", a.Status, strings.TrimSpace(a.Body), a.TookMS)
}

// quick is the bound of an immediate answer, in milliseconds: generous for a busy machine, but
// shorter than any wait of the agent, the shortest of which is 8 s.
const quick = 2000

// Addresses of the metadata service, and requests to it.
const (
	metadata  = "169.254.169.254:80"
	tokenPath = "/metadata/identity/oauth2/token"
	resource  = "https://management.azure.com/"
	tokenAsk  = tokenPath + "?api-version=2018-02-01&resource=" + resource
)

// get is a GET of the metadata service with the headers, one per argument. The header Metadata is
// included unless an argument is "-Metadata".
func get(target string, headers ...string) request { return speak("GET", target, headers...) }

func speak(method, target string, headers ...string) request {
	lines := []string{method + " " + target + " HTTP/1.1", "Host: 169.254.169.254", "Connection: close"}
	bare := false
	for _, h := range headers {
		if h == withoutMetadata {
			bare = true
			continue
		}
		lines = append(lines, h)
	}
	if !bare {
		lines = append(lines, "Metadata: true")
	}
	return request{To: metadata, Send: strings.Join(lines, "\r\n") + "\r\n\r\n", TimeoutMS: limit.Milliseconds() / 2}
}

// withoutMetadata, as an argument of get, omits the header that the metadata service requires.
const withoutMetadata = "-Metadata"

// ask makes a probe send requests, one after the other.
func (s *story) ask(p *corev1.Pod, requests ...request) []answer {
	s.Helper()
	text, err := json.Marshal(requests)
	s.must(err)
	ctx, cancel := s.soon("pod " + p.Name + " has its answers")
	defer cancel()
	out, err := s.kubectl(ctx, "exec", "-n", p.Namespace, p.Name, "--", "/client", string(text))
	s.must(err)
	var answers []answer
	s.must(json.NewDecoder(bytes.NewReader(out)).Decode(&answers))
	if len(answers) != len(requests) {
		s.Fatalf("pod %s was told to ask %d times and did %d times", p.Name, len(requests), len(answers))
	}
	return answers
}

// token asks for a token and checks that it belongs to the identity.
func (s *story) token(p *corev1.Pod, selector string, want world.Identity) answer {
	s.Helper()
	a := s.ask(p, get(tokenAsk+selector))[0]
	if a.Status != 200 || a.Claims["appid"] != want.ClientID || a.Claims["oid"] != want.PrincipalID {
		s.Errorf("pod %s asked for a token of %s: %s, with claims %v", p.Name, short(want.ResourceID), a, a.Claims)
	}
	return a
}

// refused asks for a token and checks that it is refused with this status and text, and within this
// time.
func (s *story) refused(p *corev1.Pod, selector string, status int, text string, withinMS int64) answer {
	s.Helper()
	a := s.ask(p, get(tokenAsk+selector))[0]
	if a.Status != status || !strings.Contains(a.Body, text) || len(a.Claims) > 0 {
		s.Errorf("pod %s asked for a token it must not have: %s, want %d %s", p.Name, a, status, text)
	}
	if a.TookMS > withinMS {
		s.Errorf("pod %s was refused after %d ms only, want at most %d", p.Name, a.TookMS, withinMS)
	}
	return a
}

// mark returns the current position in Azure's request log.
func (s *story) mark() uint64 {
	s.Helper()
	n, err := s.azure.mark(s.Context())
	s.must(err)
	return n
}

// requests returns Azure's requests since the mark.
func (s *story) requests(since uint64, f world.Filter) []world.Request {
	s.Helper()
	f.After = since
	list, err := s.azure.control.Requests(s.Context(), f, 0)
	s.must(err)
	return list
}

// changed reports whether ARM got a request since the mark that added or removed the identity.
func (s *story) changed(since uint64, how string, id world.Identity) bool {
	s.Helper()
	for _, r := range s.requests(since, world.Filter{Surface: "arm", Method: "PATCH", Status: 200}) {
		for name := range strings.FieldsSeq(r.Details[how]) {
			if strings.EqualFold(name, id.ResourceID) {
				return true
			}
		}
	}
	return false
}
