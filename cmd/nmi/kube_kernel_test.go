package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kube is a minimal API server for the agent's watches. It streams the objects and their changes.
// Objects are maps, as in YAML.
type kube struct {
	mu      sync.Mutex
	version int
	objects map[string]map[string]any   // by resource and name
	changed map[string]chan struct{}    // closed at the next event of a resource
	events  map[string][]map[string]any // all events of a resource so far
}

func newKube() *kube {
	return &kube{objects: map[string]map[string]any{}, changed: map[string]chan struct{}{}, events: map[string][]map[string]any{}}
}

// apply creates or changes an object.
func (k *kube) apply(resource, apiVersion, kind, name string, rest map[string]any, labels map[string]any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version++
	object := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{
		"namespace": "shop", "name": name, "uid": "uid-" + name, "resourceVersion": fmt.Sprint(k.version), "labels": labels,
	}}
	maps.Copy(object, rest)
	if k.objects[resource] == nil {
		k.objects[resource] = map[string]any{}
	}
	event := "ADDED"
	if k.objects[resource][name] != nil {
		event = "MODIFIED"
	}
	k.objects[resource][name] = object
	k.notify(resource, event, object)
}

// remove deletes an object.
func (k *kube) remove(resource, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	object := k.objects[resource][name]
	delete(k.objects[resource], name)
	k.notify(resource, "DELETED", object)
}

func (k *kube) notify(resource, event string, object any) {
	k.events[resource] = append(k.events[resource], map[string]any{"type": event, "object": object})
	if c := k.changed[resource]; c != nil {
		close(c)
		delete(k.changed, resource)
	}
}

// since returns the events after the first n, or a channel to wait on.
func (k *kube) since(resource string, n int) ([]map[string]any, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.events[resource]) > n {
		return k.events[resource][n:], nil
	}
	if k.changed[resource] == nil {
		k.changed[resource] = make(chan struct{})
	}
	return nil, k.changed[resource]
}

// ServeHTTP serves list and watch.
func (k *kube) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") == "" {
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":400,"reason":"BadRequest","message":"only watches"}`, http.StatusBadRequest)
		return
	}
	out := json.NewEncoder(w)
	n := 0
	events, _ := k.since(resource, 0)
	for _, e := range events {
		_ = out.Encode(e)
	}
	n += len(events)
	_ = out.Encode(map[string]any{"type": "BOOKMARK", "object": map[string]any{
		"apiVersion": apiVersionOf(r.URL.Path), "kind": kindOf(resource),
		"metadata": map[string]any{"resourceVersion": "1000", "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
	}})
	_ = http.NewResponseController(w).Flush()
	for {
		events, wait := k.since(resource, n)
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-r.Context().Done():
				return
			}
		}
		for _, e := range events {
			_ = out.Encode(e)
		}
		n += len(events)
		_ = http.NewResponseController(w).Flush()
	}
}

func apiVersionOf(path string) string {
	if strings.HasPrefix(path, "/api/") {
		return "v1"
	}
	return "aadpodidentity.k8s.io/v1"
}

func kindOf(resource string) string {
	return map[string]string{
		"pods": "Pod", "azureidentities": "AzureIdentity", "azureidentitybindings": "AzureIdentityBinding",
		"azurepodidentityexceptions": "AzurePodIdentityException", "azureassignedidentities": "AzureAssignedIdentity",
		"azureidentitypolicies": "AzureIdentityPolicy", "nodes": "Node",
	}[resource]
}
