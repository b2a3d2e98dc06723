// Objects that are read when they are needed, and not kept: pods, Secrets of service principals,
// and tokens of broker ServiceAccounts.

package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Objects reads single objects. It keeps none of them.
type Objects struct {
	core            *rest.RESTClient
	node            string
	brokerNamespace string

	unboundUntil atomic.Int64 // Unix nanoseconds; until then tokens are not bound to the node
}

const (
	// objectTime bounds one call. The API server answers in milliseconds.
	objectTime = 5 * time.Second
	// brokerSeconds is how long a broker's token is valid, the minimum of the API server. The token
	// is used once, within seconds.
	brokerSeconds = 600
	// unboundFor is how long tokens are not bound to the node after the API server refused it. It
	// may be upgraded later.
	unboundFor = time.Hour
)

// NewObjects returns an Objects. It sends no request. Tokens of ServiceAccounts in brokerNamespace
// are bound to the node.
func NewObjects(config *rest.Config, node, brokerNamespace string) (*Objects, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // the agent's limiter in front of Entra ID bounds these, too
	// JSON, because protobuf would save less than its code costs.
	core, err := restClient(config, corev1.SchemeGroupVersion, "/api", "application/json", func(scheme *runtime.Scheme) error {
		scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Secret{}, &corev1.Pod{})
		scheme.AddKnownTypes(authenticationv1.SchemeGroupVersion, &authenticationv1.TokenRequest{})
		metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Objects{core: core, node: node, brokerNamespace: brokerNamespace}, nil
}

// Secret returns the data of a Secret. Errors are those of the API server, for package apierrors.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, objectTime)
	defer cancel()
	var secret corev1.Secret
	if err := o.core.Get().Namespace(namespace).Resource("secrets").Name(name).Do(ctx).Into(&secret); err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", namespace, name, err)
	}
	return secret.Data, nil
}

// Pod reads a pod from the API server.
func (o *Objects) Pod(ctx context.Context, key types.NamespacedName) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, objectTime)
	defer cancel()
	var pod corev1.Pod
	if err := o.core.Get().Namespace(key.Namespace).Resource("pods").Name(key.Name).Do(ctx).Into(&pod); err != nil {
		return nil, fmt.Errorf("read pod %s: %w", key, err)
	}
	return &pod, nil
}

// BrokerToken returns a token of a broker ServiceAccount for an audience, valid for ten minutes. It
// is bound to this node if the API server can do that (since Kubernetes 1.32, or 1.31 by its gate),
// so that it is invalid once the node is deleted. Errors are those of the API server.
func (o *Objects) BrokerToken(ctx context.Context, serviceAccount, audience string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, objectTime)
	defer cancel()
	bind := time.Now().UnixNano() >= o.unboundUntil.Load()
	token, err := o.brokerToken(ctx, serviceAccount, audience, bind)
	if bind && apierrors.IsInvalid(err) {
		// An older API server binds tokens to Pods and Secrets only.
		if token, err = o.brokerToken(ctx, serviceAccount, audience, false); err == nil {
			o.unboundUntil.Store(time.Now().Add(unboundFor).UnixNano())
		}
	}
	if err != nil {
		return "", fmt.Errorf("request a token of ServiceAccount %s/%s: %w", o.brokerNamespace, serviceAccount, err)
	}
	return token, nil
}

func (o *Objects) brokerToken(ctx context.Context, serviceAccount, audience string, bind bool) (string, error) {
	seconds := int64(brokerSeconds)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{audience}, ExpirationSeconds: &seconds,
	}}
	if bind {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: o.node}
	}
	var answer authenticationv1.TokenRequest
	err := o.core.Post().Namespace(o.brokerNamespace).Resource("serviceaccounts").Name(serviceAccount).
		SubResource("token").Body(request).Do(ctx).Into(&answer)
	if err != nil {
		return "", err
	}
	if answer.Status.Token == "" {
		return "", errors.New("the API server answered without a token")
	}
	return answer.Status.Token, nil
}
