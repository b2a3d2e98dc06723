// Which tokens are fetched before pods request them.

package main

import (
	"flag"
	"fmt"
	"strings"

	"github.com/podid-io/podid/internal/cloud"
)

// prefetchOptions are the resources of the first tokens of an identity.
type prefetchOptions struct {
	text      string
	resources []string // set by validate
}

// publicARM is the resource that most programs request first.
const publicARM = "https://management.azure.com/"

// maxPrefetch bounds the list. Each resource costs a request for each identity.
const maxPrefetch = 8

func (o *prefetchOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.text, "prefetch-resources", publicARM, "comma-separated `resources` whose tokens are fetched when a pod becomes entitled to an identity, "+
		"unless others of that identity were requested recently; the default depends on --cloud; empty for none")
}

// validate sets the resources. It replaces the public cloud's Resource Manager by that of the
// cloud.
func (o *prefetchOptions) validate(cloudName string) error {
	o.resources = nil
	for resource := range strings.SplitSeq(o.text, ",") {
		resource = strings.TrimSpace(resource)
		if resource == publicARM {
			resource = armOf(cloudName)
		}
		if resource != "" {
			o.resources = append(o.resources, resource)
		}
	}
	return o.check()
}

// armOf returns the resource of a cloud's Resource Manager. Each private cloud has its own.
func armOf(name string) string {
	if name == cloud.Stack {
		return ""
	}
	if c, ok := cloud.Named(name); ok {
		return c.ResourceManager + "/"
	}
	return publicARM
}

func (o *prefetchOptions) check() error {
	if len(o.resources) > maxPrefetch {
		return fmt.Errorf("--prefetch-resources names %d resources: name at most %d", len(o.resources), maxPrefetch)
	}
	for _, resource := range o.resources {
		if strings.ContainsAny(resource, " \t\r\n\"") {
			return fmt.Errorf("--prefetch-resources: %q is not a resource: separate resources by commas, as in %s,https://vault.azure.net", resource, publicARM)
		}
	}
	return nil
}
