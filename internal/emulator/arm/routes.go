// The paths of ARM that the emulator supports.

package arm

import (
	"net/http"
	"slices"
	"strings"

	"github.com/podid-io/podid/internal/emulator/world"
)

// route is a path with {places} and the conditions for its use. Fixed segments are lower case and
// ignore the case of requests; each {place} matches one segment.
type route struct {
	methods []string
	path    []string
	action  string // the ARM action that a principal must be allowed; empty needs none
	serve   func(*call) *failure
}

func (h *Handler) table() []route {
	const (
		sub      = "/subscriptions/{subscription}"
		group    = sub + "/resourcegroups/{group}"
		compute  = "/providers/microsoft.compute"
		identity = "/providers/microsoft.managedidentity/userassignedidentities"
		vm       = "/virtualmachines"
		vmss     = "/virtualmachinescalesets"
		vmAct    = "Microsoft.Compute/virtualMachines"
		vmssAct  = "Microsoft.Compute/virtualMachineScaleSets"
		idAct    = "Microsoft.ManagedIdentity/userAssignedIdentities"
	)
	get := func(path, action string, serve func(*call) *failure) route {
		return route{[]string{http.MethodGet}, segments(path), action, serve}
	}
	write := func(path, action string, serve func(*call) *failure) route {
		return route{[]string{http.MethodPatch, http.MethodPut}, segments(path), action, serve}
	}
	return []route{
		get("/tenants", "", h.listTenants),
		get("/subscriptions", "", h.listSubscriptions),
		get(sub, "", h.getSubscription),
		get(sub+"/resourcegroups", "Microsoft.Resources/subscriptions/resourceGroups/read", h.listGroups),
		get(group, "Microsoft.Resources/subscriptions/resourceGroups/read", h.getGroup),
		get(sub+compute+"/locations/{location}/operations/{operation}", "", h.getOperation),
		get(sub+compute+vm, vmAct+"/read", h.listVMs),
		get(sub+compute+vmss, vmssAct+"/read", h.listScaleSets),
		get(group+compute+vm, vmAct+"/read", h.listVMs),
		get(group+compute+vmss, vmssAct+"/read", h.listScaleSets),
		get(group+compute+vm+"/{name}", vmAct+"/read", h.getVM),
		get(group+compute+vmss+"/{name}", vmssAct+"/read", h.getScaleSet),
		write(group+compute+vm+"/{name}", vmAct+"/write", h.writeVM),
		write(group+compute+vmss+"/{name}", vmssAct+"/write", h.writeScaleSet),
		get(group+compute+vmss+"/{name}/virtualmachines", vmssAct+"/virtualMachines/read", h.listInstances),
		get(group+compute+vmss+"/{name}/virtualmachines/{instance}", vmssAct+"/virtualMachines/read", h.getInstance),
		get(sub+identity, idAct+"/read", h.listIdentities),
		get(group+identity, idAct+"/read", h.listIdentities),
		get(group+identity+"/{name}", idAct+"/read", h.getIdentity),
	}
}

// find returns the route of a request and sets its parameters.
func (h *Handler) find(c *call, path []string) (route, *failure) {
	known := false
	for _, route := range h.routes {
		params, ok := match(route.path, path)
		if !ok {
			continue
		}
		known = true
		if slices.Contains(route.methods, c.r.Method) {
			c.params = params
			return route, nil
		}
	}
	if known {
		return route{}, fail(http.StatusMethodNotAllowed, "HttpMethodNotSupported",
			"The HTTP method '%s' is not supported by the emulator at this path.", bounded(c.r.Method))
	}
	return route{}, fail(http.StatusNotFound, "InvalidResourceType",
		"The resource type at '%s' could not be found: the emulator knows VMs, scale sets, user-assigned identities, "+
			"resource groups and subscriptions.", bounded(c.r.URL.Path))
}

func match(pattern, path []string) (map[string]string, bool) {
	if len(pattern) != len(path) {
		return nil, false
	}
	params := map[string]string{}
	for i, want := range pattern {
		if name, ok := strings.CutPrefix(want, "{"); ok {
			params[strings.TrimSuffix(name, "}")] = path[i]
		} else if !world.EqualFold(want, path[i]) {
			return nil, false
		}
	}
	return params, true
}
