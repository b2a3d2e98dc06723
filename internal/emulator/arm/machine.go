// Reading VMs and scale sets.

package arm

import (
	"net/http"
	"strings"

	"github.com/podid-io/podid/internal/emulator/world"
)

func (h *Handler) listVMs(c *call) *failure       { return h.listMachines(c, world.VM) }
func (h *Handler) listScaleSets(c *call) *failure { return h.listMachines(c, world.VMSS) }
func (h *Handler) getVM(c *call) *failure         { return h.getMachine(c, world.VM) }
func (h *Handler) getScaleSet(c *call) *failure   { return h.getMachine(c, world.VMSS) }
func (h *Handler) writeVM(c *call) *failure       { return h.writeMachine(c, world.VM) }
func (h *Handler) writeScaleSet(c *call) *failure { return h.writeMachine(c, world.VMSS) }

func (h *Handler) listMachines(c *call, kind world.Kind) *failure {
	return list(c, h.world.Machines(kind, c.subscription(), c.group()), showMachine)
}

func (h *Handler) getMachine(c *call, kind world.Kind) *failure {
	view, err := h.machine(c, kind)
	if err != nil {
		return err
	}
	name := "LowCostGetVM"
	if kind == world.VMSS {
		name = "LowCostGetVMScaleSet"
	}
	if err := h.limitMachine(c, view.ID, name, h.world.Settings().Limits.MachineReads); err != nil {
		return err
	}
	writeJSON(c.w, http.StatusOK, showMachine(view))
	return nil
}

func (h *Handler) machine(c *call, kind world.Kind) (world.MachineView, *failure) {
	if _, err := h.group(c); err != nil {
		return world.MachineView{}, err
	}
	view, ok := h.world.Machine(machineID(c, kind))
	if !ok {
		return world.MachineView{}, notFound("Microsoft.Compute/"+string(kind), c)
	}
	return view, nil
}

func machineID(c *call, kind world.Kind) world.MachineID {
	return world.MachineID{Kind: kind, SubscriptionID: c.subscription(), ResourceGroup: c.group(), Name: c.params["name"]}
}

func (h *Handler) listInstances(c *call) *failure {
	view, err := h.machine(c, world.VMSS)
	if err != nil {
		return err
	}
	return list(c, view.Instances, func(i world.Instance) object { return showInstance(view, i) })
}

func (h *Handler) getInstance(c *call) *failure {
	view, err := h.machine(c, world.VMSS)
	if err != nil {
		return err
	}
	for _, i := range view.Instances {
		if world.EqualFold(i.ID, c.params["instance"]) {
			writeJSON(c.w, http.StatusOK, showInstance(view, i))
			return nil
		}
	}
	return notFound("Microsoft.Compute/virtualMachineScaleSets", c)
}

func showInstance(view world.MachineView, i world.Instance) object {
	id := view.ID.String() + "/virtualMachines/" + i.ID
	return object{
		"id": id, "name": view.Name + "_" + i.ID, "instanceId": i.ID, "location": view.Location,
		"type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
		"properties": object{
			"vmId": world.GUID(id), "provisioningState": "Succeeded", "latestModelApplied": true,
			"osProfile": object{"computerName": i.Name},
		},
	}
}

func showMachine(view world.MachineView) object {
	state := "Succeeded"
	if view.Updating {
		state = "Updating"
	}
	properties := object{"provisioningState": state}
	shown := object{
		"id": view.ID.String(), "name": view.Name, "type": "Microsoft.Compute/" + string(view.ID.Kind),
		"location": view.Location, "properties": properties, "etag": view.ETag,
	}
	if view.ID.Kind == world.VM {
		properties["vmId"] = world.GUID(view.ID.Key())
		properties["hardwareProfile"] = object{"vmSize": "Standard_D2s_v5"}
	} else {
		properties["uniqueId"] = world.GUID(view.ID.Key())
		shown["sku"] = object{"name": "Standard_D2s_v5", "tier": "Standard", "capacity": len(view.Instances)}
	}
	if len(view.Tags) > 0 {
		shown["tags"] = view.Tags
	}
	if identity := showAssigned(view); identity != nil {
		shown["identity"] = identity
	}
	return shown
}

// showAssigned returns the identity section, or nil for a machine without identities, which has no
// section.
func showAssigned(view world.MachineView) object {
	shown := object{}
	var types []string
	if s := view.SystemAssigned; s != nil {
		types = append(types, "SystemAssigned")
		shown["principalId"], shown["tenantId"] = s.PrincipalID, view.TenantID
	}
	if len(view.Identities) > 0 {
		types = append(types, "UserAssigned")
		user := object{}
		for _, id := range view.Identities {
			key, entry := id, object{}
			if parsed, err := world.ParseIdentityID(id); err == nil {
				key = parsed.String()
			}
			if identity, ok := view.Bound[id]; ok { // a deleted identity stays, without its IDs
				entry = object{"principalId": identity.PrincipalID, "clientId": identity.ClientID}
			}
			user[key] = entry
		}
		shown["userAssignedIdentities"] = user
	}
	if len(types) == 0 {
		return nil
	}
	shown["type"] = strings.Join(types, ", ")
	return shown
}
