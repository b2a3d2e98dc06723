// An API server with one Lease, and a faulty connection to it.

package election

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	typed "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

var (
	errUnreachable = errors.New("connection refused")
	leases         = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
)

// server stores one Lease, or none.
type server struct {
	mu      sync.Mutex
	version int
	lease   *coordinationv1.Lease
	writers []string // holder names, in the order of the writes
}

// put stores a new version. The caller holds mu.
func (s *server) put(lease *coordinationv1.Lease) *coordinationv1.Lease {
	s.version++
	s.lease = lease.DeepCopy()
	s.lease.ResourceVersion = strconv.Itoa(s.version)
	s.writers = append(s.writers, *lease.Spec.HolderIdentity)
	return s.lease.DeepCopy()
}

// holder returns the holder's name, "" when there is none.
func (s *server) holder() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return ""
	}
	return *s.lease.Spec.HolderIdentity
}

// steal makes another process the holder.
func (s *server) steal(by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lease := s.lease.DeepCopy()
	lease.Spec.HolderIdentity = &by
	s.put(lease)
}

// connection is one candidate's client.
type connection struct {
	typed.LeaseInterface // nil: other methods are not called
	s                    *server

	mu     sync.Mutex
	faults faults
}

// faults are what goes wrong on a connection.
type faults struct {
	cut  bool          // requests do not arrive
	lost bool          // requests arrive, responses do not
	slow time.Duration // delay of each response
}

func (c *connection) set(f faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
}

// Leases implements LeasesGetter.
func (c *connection) Leases(string) typed.LeaseInterface { return c }

// do runs one request on the server.
func (c *connection) do(ctx context.Context, request func(*server) (*coordinationv1.Lease, error)) (*coordinationv1.Lease, error) {
	c.mu.Lock()
	f := c.faults
	c.mu.Unlock()
	if f.cut {
		return nil, errUnreachable
	}
	c.s.mu.Lock()
	lease, err := request(c.s)
	c.s.mu.Unlock()
	if f.lost {
		<-ctx.Done()
	}
	select {
	case <-time.After(f.slow):
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return lease, err
}

func (c *connection) Get(ctx context.Context, name string, _ metav1.GetOptions) (*coordinationv1.Lease, error) {
	return c.do(ctx, func(s *server) (*coordinationv1.Lease, error) {
		if s.lease == nil {
			return nil, apierrors.NewNotFound(leases, name)
		}
		return s.lease.DeepCopy(), nil
	})
}

func (c *connection) Create(ctx context.Context, lease *coordinationv1.Lease, _ metav1.CreateOptions) (*coordinationv1.Lease, error) {
	return c.do(ctx, func(s *server) (*coordinationv1.Lease, error) {
		if s.lease != nil {
			return nil, apierrors.NewAlreadyExists(leases, lease.Name)
		}
		return s.put(lease), nil
	})
}

func (c *connection) Update(ctx context.Context, lease *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	return c.do(ctx, func(s *server) (*coordinationv1.Lease, error) {
		if s.lease == nil || s.lease.ResourceVersion != lease.ResourceVersion {
			return nil, apierrors.NewConflict(leases, lease.Name, errors.New("changed"))
		}
		return s.put(lease), nil
	})
}
