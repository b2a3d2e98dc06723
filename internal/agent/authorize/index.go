// An index of objects by a property.

package authorize

import (
	"cmp"
	"slices"
)

// index finds objects by one of their properties. Objects with the same property are in one slice,
// in order of their names: a single object costs little, and many are copied in one step.
type index[T named] map[string][]T

// named is an object with a name to order by. Two objects with the same name are the same object.
type named interface {
	GetNamespace() string
	GetName() string
}

// put adds an object, or replaces the one of the same name. first reports whether there was no
// other.
func (x index[T]) put(by string, object T) (first bool) {
	list := x[by]
	at, found := search(list, object.GetNamespace(), object.GetName())
	if found {
		list[at] = object
		return false
	}
	x[by] = slices.Insert(list, at, object)
	return len(list) == 0
}

// remove removes the object of that name. last reports whether no other is left.
func (x index[T]) remove(by, namespace, name string) (last bool) {
	list := x[by]
	at, found := search(list, namespace, name)
	switch {
	case !found:
		return false
	case len(list) == 1:
		delete(x, by)
		return true
	}
	list = slices.Delete(list, at, at+1)
	if spare := cap(list) - len(list); spare > len(list) && spare > 16 {
		list = slices.Clone(list)
	}
	x[by] = list
	return false
}

func search[T named](list []T, namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(object T, _ string) int {
		return cmp.Or(cmp.Compare(object.GetNamespace(), namespace), cmp.Compare(object.GetName(), name))
	})
}
