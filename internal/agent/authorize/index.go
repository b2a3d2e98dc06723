// Objects by their properties.

package authorize

import (
	"iter"

	"k8s.io/apimachinery/pkg/types"
)

// index finds objects by one of their properties; within that, by name.
type index[T any] map[string]shelf[T]

// shelf holds the objects with the same property. Nearly always that is one, for
// which a map would cost 300 bytes more: on every node of a cluster, for each of
// its bindings.
type shelf[T any] struct {
	name types.NamespacedName
	only T
	more map[types.NamespacedName]T // if there are or were several; then all of them
}

func (x index[T]) put(by string, name types.NamespacedName, object T) {
	s, ok := x[by]
	switch {
	case s.more != nil:
		s.more[name] = object
	case !ok || s.name == name:
		x[by] = shelf[T]{name: name, only: object}
	default:
		x[by] = shelf[T]{more: map[types.NamespacedName]T{s.name: s.only, name: object}}
	}
}

func (x index[T]) remove(by string, name types.NamespacedName) {
	s := x[by]
	delete(s.more, name)
	if len(s.more) == 0 && (s.more != nil || s.name == name) {
		delete(x, by)
	}
}

// with are the objects with that property, in no order.
func (x index[T]) with(by string) iter.Seq2[types.NamespacedName, T] {
	return func(yield func(types.NamespacedName, T) bool) {
		s, ok := x[by]
		if ok && s.more == nil {
			yield(s.name, s.only)
			return
		}
		for name, object := range s.more {
			if !yield(name, object) {
				return
			}
		}
	}
}
