// Tokens fetched ahead: which, and when.

package main

import (
	"flag"
	"fmt"
	"strings"

	"github.com/podid-io/podid/internal/cloud"
)

// prefetchOptions: what is fetched ahead for an identity that was not asked for
// anything yet.
type prefetchOptions struct {
	text      string
	resources []string // worked out by validate
}

// publicARM is what most programs ask for first.
const publicARM = "https://management.azure.com/"

// maxPrefetch bounds the flag's list: each costs a request for each identity.
const maxPrefetch = 8

func (o *prefetchOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.text, "prefetch-resources", publicARM, "comma-separated `resources` whose tokens are fetched when a pod becomes entitled to an identity, "+
		"unless the identity was asked for others lately; the default follows --cloud; empty fetches none ahead")
}

// validate works out the resources. It takes the cloud's Resource Manager for
// the public one: a program in another cloud has no use for that.
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
