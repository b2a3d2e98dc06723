// Objects by their properties.

package authorize

import "k8s.io/apimachinery/pkg/types"

// index finds objects by one of their properties; within that, by name.
type index[T any] map[string]map[types.NamespacedName]T

func (x index[T]) put(by string, name types.NamespacedName, object T) {
	if x[by] == nil {
		x[by] = map[types.NamespacedName]T{}
	}
	x[by][name] = object
}

func (x index[T]) remove(by string, name types.NamespacedName) {
	delete(x[by], name)
	if len(x[by]) == 0 {
		delete(x, by)
	}
}
