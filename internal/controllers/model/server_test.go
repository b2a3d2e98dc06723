// The model's API server: objects in memory, and a log of changes for every watcher. It follows the
// real server where the controllers depend on it: versions, generations, finalizers, preconditions,
// and the status subresource.

package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// kind is the Go type of an object. Each type is one kind of the API.
type kind = reflect.Type

func kindOf(o client.Object) kind { return reflect.TypeOf(o).Elem() }

func resourceOf(k kind) schema.GroupResource {
	return schema.GroupResource{Resource: strings.ToLower(k.Name()) + "s"}
}

// apiServer is the API server.
type apiServer struct {
	mu      sync.Mutex
	version int
	made    int
	objects map[kind]map[types.NamespacedName]client.Object
	watches map[kind][]*watch
	// fails are the responses to MIC's next writes.
	fails []apiFault
}

// apiFault is a fault of one write.
type apiFault struct {
	err  error
	done bool // the write is carried out anyway
}

// change is one event of a watch.
type change struct {
	object  client.Object
	deleted bool
}

// watch collects changes for one watcher.
type watch struct {
	pending []change
	news    chan struct{}
}

func newServer() *apiServer {
	return &apiServer{objects: map[kind]map[types.NamespacedName]client.Object{}, watches: map[kind][]*watch{}}
}

func (s *apiServer) take(k kind, name types.NamespacedName) client.Object { return s.objects[k][name] }

// get returns a copy of the object, or nil if it does not exist.
func (s *apiServer) get(k kind, name types.NamespacedName) client.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.take(k, name); have != nil {
		return copied(have)
	}
	return nil
}

// list returns the objects of a kind, ordered by name. They must not be changed.
func (s *apiServer) list(k kind) []client.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed(k)
}

func (s *apiServer) listed(k kind) []client.Object {
	all := slices.Collect(maps.Values(s.objects[k]))
	slices.SortFunc(all, func(a, b client.Object) int { return strings.Compare(key(a), key(b)) })
	return all
}

// follow returns the current objects, and a watch of the changes after them.
func (s *apiServer) follow(k kind) ([]client.Object, *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watch{news: make(chan struct{}, 1)}
	s.watches[k] = append(s.watches[k], w)
	return s.listed(k), w
}

func (s *apiServer) unfollow(k kind, w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches[k] = slices.DeleteFunc(s.watches[k], func(have *watch) bool { return have == w })
}

// drain removes and returns up to n changes, or all if n is negative.
func (s *apiServer) drain(w *watch, n int) []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 0 || n > len(w.pending) {
		n = len(w.pending)
	}
	taken := w.pending[:n]
	w.pending = w.pending[n:]
	return taken
}

// relist returns the current objects and restarts the watch after them.
func (s *apiServer) relist(k kind, w *watch) []client.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.pending = nil
	return s.listed(k)
}

func (s *apiServer) store(o client.Object, deleted bool) {
	k := kindOf(o)
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	if s.objects[k] == nil {
		s.objects[k] = map[types.NamespacedName]client.Object{}
	}
	if deleted {
		delete(s.objects[k], client.ObjectKeyFromObject(o))
	} else {
		s.objects[k][client.ObjectKeyFromObject(o)] = o
	}
	for _, w := range s.watches[k] {
		w.pending = append(w.pending, change{o, deleted})
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

func (s *apiServer) create(o client.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, name := kindOf(o), client.ObjectKeyFromObject(o)
	if s.take(k, name) != nil {
		return apierrors.NewAlreadyExists(resourceOf(k), name.Name)
	}
	if o.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	s.made++
	o.SetUID(types.UID("uid-" + strconv.Itoa(s.made)))
	o.SetGeneration(1)
	o.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	if split(k) {
		clearStatus(o)
	}
	s.store(copied(o), false)
	o.SetResourceVersion(strconv.Itoa(s.version))
	return nil
}

// update replaces an object, or only its status. mutate changes a copy of the old object.
func (s *apiServer) update(k kind, name types.NamespacedName, status bool, mutate func(client.Object) (client.Object, error)) (client.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.take(k, name)
	if have == nil {
		return nil, apierrors.NewNotFound(resourceOf(k), name.Name)
	}
	want, err := mutate(copied(have))
	if err != nil {
		return nil, err
	}
	want = copied(want)
	if v := want.GetResourceVersion(); v != "" && v != have.GetResourceVersion() {
		return nil, apierrors.NewConflict(resourceOf(k), name.Name, fmt.Errorf("the object has been modified"))
	}
	if uid := want.GetUID(); uid != "" && uid != have.GetUID() {
		return nil, apierrors.NewConflict(resourceOf(k), name.Name, fmt.Errorf("another UID"))
	}
	settle(have, want, status)
	if reflect.DeepEqual(have, want) {
		return want, nil
	}
	s.store(want, want.GetDeletionTimestamp() != nil && len(want.GetFinalizers()) == 0 && k != kindOf(&corev1.Pod{}))
	return copied(want), nil
}

// settle returns what the server stores for a request.
func settle(have, want client.Object, status bool) {
	if status {
		// Only the status is updated.
		into := copied(have)
		statusOf(into).Set(statusOf(want))
		reflect.ValueOf(want).Elem().Set(reflect.ValueOf(into).Elem())
	} else if split(kindOf(want)) {
		statusOf(want).Set(statusOf(copied(have)))
	}
	want.SetUID(have.GetUID())
	want.SetCreationTimestamp(have.GetCreationTimestamp())
	want.SetDeletionTimestamp(have.GetDeletionTimestamp())
	want.SetDeletionGracePeriodSeconds(have.GetDeletionGracePeriodSeconds())
	want.SetResourceVersion(have.GetResourceVersion())
	want.SetGeneration(have.GetGeneration())
	if !reflect.DeepEqual(body(have), body(want)) {
		want.SetGeneration(have.GetGeneration() + 1)
	}
}

// body returns the part of an object whose changes increase the generation.
func body(o client.Object) any {
	if field := reflect.ValueOf(o).Elem().FieldByName("Spec"); field.IsValid() {
		if split(kindOf(o)) {
			return field.Interface()
		}
		return []any{field.Interface(), statusOf(o).Interface()}
	}
	return nil
}

func (s *apiServer) delete(k kind, name types.NamespacedName, if_ *metav1.Preconditions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.take(k, name)
	if have == nil {
		return apierrors.NewNotFound(resourceOf(k), name.Name)
	}
	if if_ != nil && (if_.UID != nil && *if_.UID != have.GetUID() ||
		if_.ResourceVersion != nil && *if_.ResourceVersion != have.GetResourceVersion()) {
		return apierrors.NewConflict(resourceOf(k), name.Name, fmt.Errorf("precondition failed"))
	}
	gone := copied(have)
	if len(have.GetFinalizers()) == 0 {
		s.store(gone, true)
		return nil
	}
	if have.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		gone.SetDeletionTimestamp(&now)
		s.store(gone, false)
	}
	return nil
}

func (s *apiServer) patch(k kind, name types.NamespacedName, status bool, how types.PatchType, data []byte) (client.Object, error) {
	return s.update(k, name, status, func(have client.Object) (client.Object, error) {
		before, err := json.Marshal(have)
		if err != nil {
			return nil, err
		}
		into, ok := reflect.TypeAssert[client.Object](reflect.New(k))
		if !ok {
			return nil, fmt.Errorf("%s is no object", k)
		}
		var after []byte
		if how == types.StrategicMergePatchType {
			after, err = strategicpatch.StrategicMergePatch(before, data, into)
		} else {
			after, err = mergePatch(before, data)
		}
		if err != nil {
			return nil, err
		}
		return into, json.Unmarshal(after, into)
	})
}

// mergePatch applies a JSON merge patch (RFC 7386).
func mergePatch(document, patch []byte) ([]byte, error) {
	var have, change map[string]any
	if err := json.Unmarshal(document, &have); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(patch, &change); err != nil {
		return nil, err
	}
	return json.Marshal(merge(have, change))
}

func merge(have, change map[string]any) map[string]any {
	if have == nil {
		have = map[string]any{}
	}
	for k, v := range change {
		deeper, nested := v.(map[string]any)
		before, _ := have[k].(map[string]any)
		switch {
		case v == nil:
			delete(have, k)
		case nested:
			have[k] = merge(before, deeper)
		default:
			have[k] = v
		}
	}
	return have
}

// split reports whether the kind's status is a subresource.
func split(k kind) bool {
	return k == kindOf(&corev1.Pod{}) || k == kindOf(&corev1.Node{}) || k == kindOf(&v1.AzureIdentity{})
}

func statusOf(o client.Object) reflect.Value { return reflect.ValueOf(o).Elem().FieldByName("Status") }

func clearStatus(o client.Object) { statusOf(o).SetZero() }

func copied[T client.Object](o T) T {
	c, _ := o.DeepCopyObject().(T)
	return c
}

func key(o client.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// refusedByServer returns one of the errors that an unhealthy API server returns for a write.
func refusedByServer(n int) apiFault {
	switch n {
	case 0:
		return apiFault{err: apierrors.NewInternalError(fmt.Errorf("etcd is slow"))}
	case 1:
		return apiFault{err: apierrors.NewTimeoutError("the answer is lost", 1), done: true}
	case 2:
		return apiFault{err: &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests,
		}}}
	default:
		return apiFault{err: apierrors.NewConflict(schema.GroupResource{}, "", fmt.Errorf("somebody else was faster"))}
	}
}
