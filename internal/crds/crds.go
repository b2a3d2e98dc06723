// Package crds applies and deletes podid's custom resource definitions, and finds out whether those
// of a cluster are older than the program.
package crds

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v1 "github.com/podid-io/podid/api/v1"
)

// fieldOwner is Helm's own name. The next helm install applies the definitions, too, and Helm 4 fails
// where another manager has a field.
const fieldOwner = client.FieldOwner("helm")

// Read reads the definitions in the *.yaml files of a folder. It fails if there are none, and on
// anything else than a definition of podid's group.
func Read(dir string) ([]*unstructured.Unstructured, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no custom resource definitions in %s", dir))
	}
	var definitions []*unstructured.Unstructured
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read custom resource definition: %w", err)
		}
		definition := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(data, &definition.Object); err != nil {
			return nil, fmt.Errorf("parse %s: %w", path, err)
		}
		group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
		if definition.GetKind() != "CustomResourceDefinition" || group != v1.GroupVersion.Group {
			return nil, fmt.Errorf("%s is no custom resource definition of %s", path, v1.GroupVersion.Group)
		}
		definitions = append(definitions, definition)
	}
	return definitions, nil
}

// Apply creates the definitions, or updates those that exist and takes their fields over from other
// managers. It goes on after an error.
func Apply(ctx context.Context, c client.Client, definitions []*unstructured.Unstructured) error {
	var failed []error
	for _, definition := range definitions {
		err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(definition), fieldOwner, client.ForceOwnership)
		if err != nil {
			failed = append(failed, fmt.Errorf("apply %s: %w", definition.GetName(), err))
		}
	}
	return errors.Join(failed...)
}

// deleteWait is how long Delete waits, unless its context ends before.
const deleteWait = 30 * time.Second

// Delete deletes the definitions, and with them all objects of their kinds, and waits until they are
// gone. Those that do not exist are no error. A definition stays, and is reported, while one of its
// objects has a finalizer.
func Delete(ctx context.Context, c client.Client, definitions []*unstructured.Unstructured) error {
	var failed []error
	var deleted []*unstructured.Unstructured
	for _, definition := range definitions {
		if err := client.IgnoreNotFound(c.Delete(ctx, definition)); err != nil && !meta.IsNoMatchError(err) {
			failed = append(failed, fmt.Errorf("delete %s: %w", definition.GetName(), err))
			continue
		}
		deleted = append(deleted, definition)
	}
	return errors.Join(append(failed, waitGone(ctx, c, deleted))...)
}

// waitGone returns when none of the deleted definitions exists any more, or names in an error those
// that do when the context ends or deleteWait is over.
func waitGone(ctx context.Context, c client.Client, deleted []*unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, deleteWait)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		deleted = slices.DeleteFunc(deleted, func(definition *unstructured.Unstructured) bool {
			err := c.Get(ctx, client.ObjectKeyFromObject(definition), definition.DeepCopy())
			return apierrors.IsNotFound(err) || meta.IsNoMatchError(err)
		})
		return len(deleted) == 0, nil
	})
	if err == nil {
		return nil
	}
	var names []string
	for _, definition := range deleted {
		names = append(names, definition.GetName())
	}
	return fmt.Errorf("still being deleted: %s: remove the finalizers of their objects, as podid cleanup does: %w",
		strings.Join(names, ", "), err)
}
