// The options about pre-assignment: the namespaces whose identities may be on nodes before any pod
// needs them.

package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/podid-io/podid/api/v1"
)

// preassignOptions list the namespaces in which an AzureIdentity's annotation takes effect. Users
// who may write one there decide what every pod's node gets.
type preassignOptions struct {
	namespaces string
}

// everyNamespace selects all namespaces.
const everyNamespace = "*"

func (o *preassignOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.namespaces, "preassign-namespaces", everyNamespace,
		"`namespaces`, separated by commas, whose AzureIdentities may be on VMs and scale sets before a pod needs them (annotation "+
			v1.PreassignAnnotation+"); *: all, empty: none")
}

// list returns the entries of the flag.
func (o *preassignOptions) list() []string {
	return strings.FieldsFunc(o.namespaces, func(r rune) bool { return r == ',' || r == ' ' })
}

func (o *preassignOptions) validate() error {
	var wrong []error
	for _, namespace := range o.list() {
		if problems := validation.IsDNS1123Label(namespace); namespace != everyNamespace && len(problems) > 0 {
			wrong = append(wrong, fmt.Errorf("--preassign-namespaces: %q cannot be the name of a namespace: %s", namespace, problems[0]))
		}
	}
	return errors.Join(wrong...)
}

// may returns a function that reports whether a namespace is included. It returns nil if all are.
func (o *preassignOptions) may() func(namespace string) bool {
	list := o.list()
	if slices.Contains(list, everyNamespace) {
		return nil
	}
	return func(namespace string) bool { return slices.Contains(list, namespace) }
}
