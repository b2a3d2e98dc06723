// Row floor: how long the API server alone needs for the objects that MIC writes.

package mic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

// floorWriters is the number of concurrent writers: as many as MIC has workers.
const floorWriters = 64

// floor creates the objects that MIC would write for that many pods, as fast as possible. Request
// bodies are encoded in advance, responses are not decoded, and there are no watches and no pods.
// No MIC can start faster.
func (b *bench) floor(ctx context.Context, step *progress.Step) error {
	sizes := b.options.sizes
	if len(sizes) == 0 {
		sizes = []int{b.options.pods}
	}
	s := grown(sizes)
	return b.with(ctx, s, func(c *cluster) error {
		c.seen.stop()
		for _, pods := range sizes {
			if err := b.floorOf(ctx, c, s, pods, step); err != nil {
				return fmt.Errorf("with %d pods: %w", pods, err)
			}
		}
		return nil
	})
}

func (b *bench) floorOf(ctx context.Context, c *cluster, s shape, pods int, step *progress.Step) error {
	step.Far("making %d objects", pods)
	bodies, err := c.assignedBodies(ctx, s, pods)
	if err != nil {
		return err
	}
	kube, err := clientcmd.BuildConfigFromFlags("", c.micKubeconfig)
	if err != nil {
		return fmt.Errorf("read MIC's kubeconfig: %w", err)
	}
	w, err := newWriter(kube)
	if err != nil {
		return err
	}
	measure.Pause(ctx, calmDown) // the API server is still processing the last writes
	profiled := b.profileServer(ctx, c.Config(), fmt.Sprintf("floor-%d", pods))
	before, began := cpuByName(), time.Now()
	var done atomic.Int64
	err = stage.EachOf(ctx, floorWriters, pods, func(ctx context.Context, i int) error {
		if n := done.Add(1); n%200 == 0 {
			step.Far("%d of %d written", n, pods)
		}
		return w.create(ctx, bodies[i])
	})
	took, used := time.Since(began), cpuByName()
	if err != nil {
		return err
	}
	for name := range used {
		used[name] -= before[name]
	}
	each := func(name string) string { return fmt.Sprintf("%.2f ms", 1000*used[name]/float64(pods)) }
	b.Report.Add(fmt.Sprintf("floor.%d", pods), fmt.Sprintf("%d assigned identities created by a bare client, nothing else", pods), "s", []float64{took.Seconds()}).
		Remark("%.0f a second; CPU time for each: kube-apiserver %s, etcd %s, client %s; an object has %d bytes",
			float64(pods)/took.Seconds(), each("kube-apiserver"), each("etcd"), each("benchmark"), len(bodies[0].text))
	b.Said = fmt.Sprintf("%d in %.1f s", pods, took.Seconds())
	step.Far("removing them")
	return errors.Join(profiled(), c.forget(ctx))
}

// body is the encoded form of an object.
type body struct{ namespace, text string }

// assignedBodies returns the objects of the pods 0 … n-1, created by MIC's own rules from the
// existing identities and bindings.
func (c *cluster) assignedBodies(ctx context.Context, s shape, n int) ([]body, error) {
	var identities v1.AzureIdentityList
	var bindings v1.AzureIdentityBindingList
	if err := errors.Join(c.Objects.List(ctx, &identities), c.Objects.List(ctx, &bindings)); err != nil {
		return nil, fmt.Errorf("read identities and bindings: %w", err)
	}
	grants := map[string]identity.Grant{} // an identity and its binding have the same name
	for i := range identities.Items {
		grants[identities.Items[i].Name] = identity.Grant{Identity: &identities.Items[i]}
	}
	for i := range bindings.Items {
		g := grants[bindings.Items[i].Name]
		g.Binding = &bindings.Items[i]
		grants[bindings.Items[i].Name] = g
	}
	there := func(*v1.AzureIdentity) assignment.Progress {
		return assignment.Progress{State: assignment.State{Status: v1.StateAssigned}}
	}
	bodies := make([]body, 0, n)
	for i := range n {
		pod := s.pod(i)
		plan := assignment.ForPod(assignment.Pod{
			Namespace: pod.Namespace, Name: pod.Name, NodeName: pod.Spec.NodeName, Rules: identity.Rules{ForceNamespaced: true},
			Grants: []identity.Grant{grants[pod.Labels[v1.BindingLabel]]}, Progress: there, Now: metav1.Now(),
			Taken: func(string, string) bool { return false },
		})
		if len(plan.Create) != 1 {
			return nil, fmt.Errorf("the rules make %d objects for pod %s", len(plan.Create), key(pod))
		}
		o := plan.Create[0]
		o.APIVersion, o.Kind = v1.GroupVersion.String(), "AzureAssignedIdentity"
		text, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("write an object: %w", err)
		}
		bodies = append(bodies, body{o.Namespace, string(text)})
	}
	return bodies, nil
}

// writer is a client that only posts.
type writer struct {
	client *http.Client
	host   string
}

func newWriter(kube *rest.Config) (*writer, error) {
	client, err := rest.HTTPClientFor(kube)
	if err != nil {
		return nil, fmt.Errorf("talk to the API server: %w", err)
	}
	return &writer{client: client, host: strings.TrimSuffix(kube.Host, "/")}, nil
}

func (w *writer) create(ctx context.Context, b body) error {
	address := w.host + "/apis/aadpodidentity.k8s.io/v1/namespaces/" + b.namespace + "/azureassignedidentities"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(b.text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := w.client.Do(req)
	if err != nil {
		return fmt.Errorf("create an assigned identity: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusCreated {
		var said bytes.Buffer
		_, _ = io.CopyN(&said, answer.Body, 500)
		return fmt.Errorf("create an assigned identity: %s: %s", answer.Status, said.String())
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}
