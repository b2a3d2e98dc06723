// Lists that are decoded and stripped one object at a time.

package listwatch

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// Kind is a kind whose lists are streamed.
type Kind struct {
	// Client is a client of the kind's group and version.
	Client cache.Getter
	// Resource is the kind's name in a URL.
	Resource string
	// Namespace is the namespace of the objects; empty for all.
	Namespace string
	// Narrow, if set, adds selectors to a request.
	Narrow func(*metav1.ListOptions)
	// New returns an empty object.
	New func() runtime.Object
	// Strip reduces an object to the parts that are kept.
	Strip cache.TransformFunc
}

// Stream returns a ListerWatcher that watches as inner does, and whose lists hold one whole
// object in memory at a time.
//
// client-go reads the whole answer before it decodes it, and the API server ignores a limit
// when it answers from its cache. A tenant's objects of 1 MB each would then fill the memory of
// each program that lists them, although nearly nothing is kept of them. Pages would help, but
// the API server would have to read all pods of the cluster from etcd for each node that lists
// its own.
func Stream(inner cache.ListerWatcher, kind Kind) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc:  kind.list,
		WatchFuncWithContext: cache.ToListerWatcherWithContext(inner).WatchWithContext,
	}
}

// list requests a list, or one page of it.
func (k Kind) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if k.Narrow != nil {
		k.Narrow(&o)
	}
	body, err := k.Client.Get().Namespace(k.Namespace).Resource(k.Resource).VersionedParams(&o, metav1.ParameterCodec).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // it was only read
	list := &metainternalversion.List{}
	if err := k.decode(bufio.NewReaderSize(body, bufferSize), list); err != nil {
		return nil, fmt.Errorf("read the list of %s: %w", k.Resource, err)
	}
	return list, nil
}

// bufferSize is the size of the buffer between the connection and the decoder.
const bufferSize = 64 << 10

// decode reads a list in either of the API server's formats.
func (k Kind) decode(r *bufio.Reader, list *metainternalversion.List) error {
	var kind string
	var err error
	if prefix, _ := r.Peek(len(protobufPrefix)); bytes.Equal(prefix, []byte(protobufPrefix)) {
		kind, err = k.decodeProtobuf(r, list)
	} else {
		kind, err = k.decodeJSON(r, list)
	}
	if err == io.EOF { //nolint:errorlint // in the middle of a list; a wrapped one is another's
		err = io.ErrUnexpectedEOF
	}
	if err == nil && !strings.HasSuffix(kind, "List") {
		err = fmt.Errorf("the API server answered with a %q, not a list", kind)
	}
	return err
}

// keep strips one decoded object and adds it to the list.
func (k Kind) keep(list *metainternalversion.List, object runtime.Object) error {
	stripped, err := k.Strip(object)
	if err != nil {
		return err
	}
	kept, ok := stripped.(runtime.Object)
	if !ok {
		return fmt.Errorf("stripped object is a %T", stripped)
	}
	list.Items = append(list.Items, kept)
	return nil
}
