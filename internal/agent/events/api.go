// Writing Events to the API server.

package events

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Client writes Events to the API server. It needs the permission to create and patch them.
type Client struct{ rest *rest.RESTClient }

// NewClient returns a client. It sends no request.
func NewClient(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Event{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	c := rest.CopyConfig(config)
	c.GroupVersion, c.APIPath = &corev1.SchemeGroupVersion, "/api"
	c.ContentType, c.AcceptContentTypes = "application/json", "application/json"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// The Recorder has a rate limit of its own.
	c.QPS, c.Burst, c.RateLimiter = -1, 0, nil
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client for Events at %s: %w", config.Host, err)
	}
	return &Client{client}, nil
}

// Create creates an Event.
func (c *Client) Create(ctx context.Context, e *corev1.Event) error {
	err := c.rest.Post().Namespace(e.Namespace).Resource("events").Body(e).MaxRetries(0).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("create Event %s/%s: %w", e.Namespace, e.Name, err)
	}
	return nil
}

// Update writes the count, time and message of an Event.
func (c *Client) Update(ctx context.Context, e *corev1.Event) error {
	patch, err := json.Marshal(map[string]any{"count": e.Count, "lastTimestamp": e.LastTimestamp, "message": e.Message})
	if err != nil {
		return fmt.Errorf("encode Event %s/%s: %w", e.Namespace, e.Name, err)
	}
	err = c.rest.Patch(types.MergePatchType).Namespace(e.Namespace).Resource("events").Name(e.Name).Body(patch).MaxRetries(0).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("update Event %s/%s: %w", e.Namespace, e.Name, err)
	}
	return nil
}
