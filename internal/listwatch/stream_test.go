package listwatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// answer is an HTTP transport with one response for all requests.
type answer struct {
	status int
	kind   string
	body   io.Reader
	asked  *http.Request
}

// RoundTrip implements http.RoundTripper.
func (a *answer) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked = r
	return &http.Response{
		StatusCode: a.status, Header: http.Header{"Content-Type": {a.kind}}, Body: io.NopCloser(a.body), Request: r,
	}, nil
}

// podsFrom returns the kind of pods, from an API server that responds with a.
func podsFrom(t testing.TB, a *answer, strip cache.TransformFunc) Kind {
	t.Helper()
	client, err := rest.RESTClientFor(&rest.Config{
		Host: "http://api.example", APIPath: "/api", Transport: a,
		ContentConfig: rest.ContentConfig{
			GroupVersion: &corev1.SchemeGroupVersion, NegotiatedSerializer: scheme.Codecs.WithoutConversion(),
			ContentType: "application/vnd.kubernetes.protobuf",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return Kind{
		Client: client, Resource: "pods", Narrow: func(o *metav1.ListOptions) { o.FieldSelector = "spec.nodeName=n" },
		New: func() runtime.Object { return &corev1.Pod{} }, Strip: strip,
	}
}

func list(ctx context.Context, k Kind) (*metainternalversion.List, error) {
	o, err := Stream(&cache.ListWatch{}, k).(cache.ListerWatcherWithContext).ListWithContext(ctx, metav1.ListOptions{Limit: 500})
	if err != nil {
		return nil, err
	}
	return o.(*metainternalversion.List), nil
}

func encoders() map[string]runtime.Encoder {
	return map[string]runtime.Encoder{
		"application/json":                    json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{}),
		"application/vnd.kubernetes.protobuf": protobuf.NewSerializer(scheme.Scheme, scheme.Scheme),
	}
}

// somePods returns a list that uses every feature of a list.
func somePods() *corev1.PodList {
	pods := &corev1.PodList{
		TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"},
		ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "next", RemainingItemCount: new(int64(300))},
	}
	for i := range 3 {
		pods.Items = append(pods.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("p-", i), Labels: map[string]string{"x": strings.Repeat("y", 70000*i)}},
			Spec:       corev1.PodSpec{NodeName: "n", Priority: new(int32(i))},
		})
	}
	return pods
}

// TestStream: in both formats a list has the objects and metadata that the API server sent, each
// stripped.
func TestStream(t *testing.T) {
	for kind, encoder := range encoders() {
		for name, pods := range map[string]*corev1.PodList{
			"some": somePods(),
			"none": {TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				var body bytes.Buffer
				if err := encoder.Encode(pods, &body); err != nil {
					t.Fatal(err)
				}
				a := &answer{status: http.StatusOK, kind: kind, body: &body}
				got, err := list(t.Context(), podsFrom(t, a, func(o any) (any, error) {
					o.(*corev1.Pod).Spec.NodeName = "stripped"
					return o, nil
				}))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(pods.ListMeta, got.ListMeta); diff != "" {
					t.Error(diff)
				}
				if len(got.Items) != len(pods.Items) {
					t.Fatalf("%d objects", len(got.Items))
				}
				for i, want := range pods.Items {
					want.Spec.NodeName = "stripped"
					if diff := cmp.Diff(&want, got.Items[i]); diff != "" {
						t.Error(diff)
					}
				}
				if q := a.asked.URL.Query(); q.Get("limit") != "500" || q.Get("fieldSelector") != "spec.nodeName=n" {
					t.Errorf("asked %s", a.asked.URL)
				}
			})
		}
	}
}

// TestCutOff: a truncated list is an error, not a shorter list.
func TestCutOff(t *testing.T) {
	pods := somePods()
	pods.Items = pods.Items[:2]
	pods.Items[1].Labels = nil
	for kind, encoder := range encoders() {
		t.Run(kind, func(t *testing.T) {
			var body bytes.Buffer
			if err := encoder.Encode(pods, &body); err != nil {
				t.Fatal(err)
			}
			whole := bytes.TrimSpace(body.Bytes())
			for n := range whole {
				a := &answer{status: http.StatusOK, kind: kind, body: io.MultiReader(bytes.NewReader(whole[:n]), broken{})}
				if got, err := list(t.Context(), podsFrom(t, a, same)); err == nil {
					t.Fatalf("cut off after %d of %d bytes: %d objects and no error", n, len(whole), len(got.Items))
				}
			}
		})
	}
}

// broken is a reader that fails like a broken connection.
type broken struct{}

// Read implements io.Reader.
func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func same(o any) (any, error) { return o, nil }

// TestOtherAnswers: a response that is not a list is an error, and a refusal is returned unchanged.
func TestOtherAnswers(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		check      func(error) bool
	}{
		{"a refusal", `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`, http.StatusForbidden, apierrors.IsForbidden},
		{"an old version", `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`, http.StatusGone, apierrors.IsResourceExpired},
		{"a table", `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"rows":[]}`, http.StatusOK, contains("Table")},
		{"text", `<html>`, http.StatusOK, contains("read the list of pods")},
		{"nothing", ``, http.StatusOK, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"no array", `{"kind":"PodList","items":{}}`, http.StatusOK, contains("no array")},
		{"null", `{"kind":"PodList","items":null,"metadata":{}}`, http.StatusOK, func(err error) bool { return err == nil }},
		{"another case", `{"kind":"PodList","Items":[{}],"metadata":{}}`, http.StatusOK, func(err error) bool { return err == nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &answer{status: c.status, kind: "application/json", body: strings.NewReader(c.body)}
			got, err := list(t.Context(), podsFrom(t, a, same))
			if !c.check(err) {
				t.Errorf("error %v", err)
			}
			if got != nil && len(got.Items) > 0 {
				t.Errorf("%d objects", len(got.Items))
			}
		})
	}
}

func contains(text string) func(error) bool {
	return func(err error) bool { return err != nil && strings.Contains(err.Error(), text) }
}

// TestOneAtATime: before the last of several large objects is stripped, no more than one of them
// and the buffers have been read.
func TestOneAtATime(t *testing.T) {
	const count, size = 200, 650 << 10
	one := somePods()
	one.ListMeta, one.Items = metav1.ListMeta{}, one.Items[:1]
	one.Items[0].Labels["x"] = strings.Repeat("y", size)
	for kind, encoder := range encoders() {
		t.Run(kind, func(t *testing.T) {
			body := &giants{}
			if kind == "application/json" {
				var item bytes.Buffer
				if err := encoder.Encode(&one.Items[0], &item); err != nil {
					t.Fatal(err)
				}
				body.parts = [][]byte{[]byte(`{"kind":"PodList","apiVersion":"v1","items":[`), item.Bytes()}
				for range count - 1 {
					body.parts = append(body.parts, []byte(","), item.Bytes())
				}
				body.parts = append(body.parts, []byte(`],"metadata":{"resourceVersion":"1"}}`))
			} else {
				all := &corev1.PodList{TypeMeta: one.TypeMeta, Items: slices.Repeat(one.Items, count)}
				var whole bytes.Buffer
				if err := encoder.Encode(all, &whole); err != nil {
					t.Fatal(err)
				}
				body.parts = [][]byte{whole.Bytes()}
			}
			stripped := 0
			a := &answer{status: http.StatusOK, kind: kind, body: body}
			got, err := list(t.Context(), podsFrom(t, a, func(o any) (any, error) {
				if ahead := body.read - stripped*size; ahead > 3*size {
					t.Fatalf("%d kB were read for object %d", ahead>>10, stripped)
				}
				stripped++
				o.(*corev1.Pod).Labels = nil
				return o, nil
			}))
			if err != nil || len(got.Items) != count {
				t.Fatalf("%v, error %v", got, err)
			}
		})
	}
}

// giants is a body that counts the bytes read from it.
type giants struct {
	parts [][]byte
	read  int
}

// Read implements io.Reader.
func (g *giants) Read(p []byte) (int, error) {
	for len(g.parts) > 0 && len(g.parts[0]) == 0 {
		g.parts = g.parts[1:]
	}
	if len(g.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, g.parts[0])
	g.parts[0] = g.parts[0][n:]
	g.read += n
	return n, nil
}

// BenchmarkList measures a list of 20,000 small pods, streamed and as client-go reads it.
func BenchmarkList(b *testing.B) {
	pods := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
	for i := range 20000 {
		pods.Items = append(pods.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("p-", i), Labels: map[string]string{"app": "web", "tier": "front"}},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{
				Name: "c", Image: "registry.example/app:1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "C", Value: "d"}},
			}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", Conditions: make([]corev1.PodCondition, 4)},
		})
	}
	for kind, encoder := range encoders() {
		var body bytes.Buffer
		if err := encoder.Encode(pods, &body); err != nil {
			b.Fatal(err)
		}
		strip := func(o any) (any, error) {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: o.(*corev1.Pod).Name}}, nil
		}
		b.Run(kind+"/streamed", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				k := podsFrom(b, &answer{status: http.StatusOK, kind: kind, body: bytes.NewReader(body.Bytes())}, strip)
				if _, err := list(b.Context(), k); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(kind+"/whole", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				k := podsFrom(b, &answer{status: http.StatusOK, kind: kind, body: bytes.NewReader(body.Bytes())}, strip)
				if _, err := cache.NewFilteredListWatchFromClient(k.Client, "pods", "", k.Narrow).ListWithContext(b.Context(), metav1.ListOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
