// Package upgrade renames the fields of objects that were stored before v1.6 of AAD Pod Identity to
// their current names.
//
// Until v1.6, clients read field names in any letter case and wrote them in lower case (resourceid,
// clientid, azureidentity, podnamespace, azureidentityref ...). The documentation had users write
// ResourceID, ClientID, AzureIdentity, Selector. Since v1.6 names are case-sensitive.
//
// When v1.8.17's MIC starts to lead with enable-type-upgrade on, it does the following, and so does
// this package:
//
//  1. It looks for the key type-upgrade-status in the ConfigMap aad-pod-identity-config of its
//     namespace. If the key exists, with any value, it stops.
//  2. It lists the AzureIdentities, AzureIdentityBindings, AzurePodIdentityExceptions and
//     AzureAssignedIdentities of all namespaces and reads them case-insensitively.
//  3. It writes them back, and sets the key to its own version.
//
// v1.8.17 does not check that the schema preserves the old fields. The API server prunes fields
// that the schema does not name, immediately in responses and with the next write in its store.
// Under a schema without the old names this procedure would empty the objects. podid's schema
// therefore names both old spellings (api/v1/oldspelling.go). CRDs created before v1.8 use
// apiextensions v1beta1 and preserve everything (preserveUnknownFields) until podid's CRDs are
// applied.
//
// Unlike v1.8.17, this package leaves exceptions alone and writes only objects that need it. One
// rejected object does not block the others, and a failure does not stop MIC.
package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	v1 "github.com/podid-io/podid/api/v1"
)

// Settings configures the upgrade.
type Settings struct {
	Enabled bool
	// Namespace, ConfigMap and Key name the record of the version that upgraded.
	Namespace, ConfigMap, Key string
	// Version is the version of this program, stored under Key.
	Version string
}

// Controller upgrades objects, once, when MIC starts to lead.
type Controller struct {
	live     client.Reader
	writer   client.Writer
	settings Settings
}

// NewController returns a Controller. live reads from the API server: the cache's typed objects
// lack fields with old names.
func NewController(live client.Reader, writer client.Writer, settings Settings) *Controller {
	return &Controller{live: live, writer: writer, settings: settings}
}

// Limits of one list request, of the whole upgrade, and of the names in one log line. A page is
// held in memory with all its fields, and one object can exceed 1 MB.
const (
	pageSize = 10
	timeout  = 10 * time.Minute
	mostTold = 10
)

// Start implements manager.Runnable. It never fails: if old objects cannot be upgraded, MIC still
// serves all others.
func (c *Controller) Start(ctx context.Context) error {
	if !c.settings.Enabled {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	log := logr.FromContextOrDiscard(ctx)
	changed, err := c.Run(ctx)
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil:
		log.Error(err, "some objects are still spelled as before v1.6, and their pods get no identity: "+
			"fix what the error says (kubectl edit shows both spellings), then restart mic", "upgraded", changed)
	case changed > 0:
		log.Info("objects spelled as before v1.6 have been upgraded", "objects", changed)
	}
	return nil
}

// Register adds the controller to a manager, where it runs only on the leader.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	return mgr.Add(manager.RunnableFunc(c.Start))
}

// Run upgrades all objects unless the ConfigMap records that this was done, and returns how many
// were changed. It can be called again after an error.
func (c *Controller) Run(ctx context.Context) (int, error) {
	done, err := c.done(ctx)
	if done || err != nil {
		return 0, err
	}
	changed := 0
	refused := &refusals{}
	for _, k := range kinds() {
		n, err := c.upgrade(ctx, k, refused)
		changed += n
		if err != nil {
			return changed, err
		}
	}
	if err := refused.err(); err != nil {
		return changed, err
	}
	return changed, c.record(ctx)
}

// upgrade upgrades the objects of one kind.
func (c *Controller) upgrade(ctx context.Context, k kind, refused *refusals) (int, error) {
	changed := 0
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1.GroupVersion.WithKind(k.name + "List"))
	for {
		err := c.live.List(ctx, list, client.Limit(pageSize), client.Continue(list.GetContinue()))
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return changed, nil // without the CRD there are no objects
		}
		if err != nil {
			return changed, fmt.Errorf("list %s: %w", k.name, err)
		}
		for i := range list.Items {
			if !prepare(&list.Items[i], k) {
				continue
			}
			err := c.write(ctx, &list.Items[i], k)
			if err != nil && ctx.Err() != nil {
				return changed, ctx.Err()
			}
			if refused.note(&list.Items[i], err) {
				changed++
			}
		}
		if list.GetContinue() == "" {
			return changed, nil
		}
	}
}

// prepare changes the object in memory and reports whether it changed.
func prepare(object *unstructured.Unstructured, k kind) bool {
	if !respell(object.Object, k.fields) {
		return false
	}
	complete(object.Object)
	return true
}

// write stores an object. If another client changed it in the meantime, write reads and changes it
// again.
func (c *Controller) write(ctx context.Context, object *unstructured.Unstructured, k kind) error {
	err := c.writer.Update(ctx, object)
	if !apierrors.IsConflict(err) {
		return client.IgnoreNotFound(err)
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		err := c.live.Get(ctx, client.ObjectKeyFromObject(object), object)
		if err != nil {
			return client.IgnoreNotFound(err)
		}
		if !prepare(object, k) {
			return nil
		}
		return client.IgnoreNotFound(c.writer.Update(ctx, object))
	})
}

// done reports whether the upgrade is recorded as done.
func (c *Controller) done(ctx context.Context) (bool, error) {
	var cm corev1.ConfigMap
	err := c.live.Get(ctx, c.key(), &cm)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read ConfigMap %s: %w", c.key(), err)
	}
	_, done := cm.Data[c.settings.Key]
	return done, nil
}

// record records that the upgrade is done.
func (c *Controller) record(ctx context.Context) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		cm := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: c.settings.Namespace, Name: c.settings.ConfigMap}}
		err := c.live.Get(ctx, c.key(), &cm)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data[c.settings.Key] = c.settings.Version
		if apierrors.IsNotFound(err) {
			return c.writer.Create(ctx, &cm)
		}
		return c.writer.Update(ctx, &cm)
	})
	if err != nil {
		return fmt.Errorf("record the upgrade in ConfigMap %s: %w", c.key(), err)
	}
	return nil
}

func (c *Controller) key() client.ObjectKey {
	return client.ObjectKey{Namespace: c.settings.Namespace, Name: c.settings.ConfigMap}
}

// refusals collects the objects that could not be written.
type refusals struct {
	first []error
	all   int
}

// note records an error, and reports whether err is nil.
func (r *refusals) note(object client.Object, err error) bool {
	if err == nil {
		return true
	}
	if r.all++; len(r.first) < mostTold {
		r.first = append(r.first, fmt.Errorf("upgrade %s %s: %w",
			object.GetObjectKind().GroupVersionKind().Kind, client.ObjectKeyFromObject(object), err))
	}
	return false
}

func (r *refusals) err() error {
	if more := r.all - len(r.first); more > 0 {
		return errors.Join(append(r.first, fmt.Errorf("and %d more", more))...)
	}
	return errors.Join(r.first...)
}
