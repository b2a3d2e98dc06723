// Messages about refusals for objects that other users read as well: one stable text per identity.

package compute

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// About returns the message for the owner of one identity about a refusal that it caused. It holds
// the code, the identity, the node group and the remedy, which comes before anything that may be
// cut off. ARM's own message is included only if it concerns that identity alone, without the parts
// that differ between responses. The same refusal gives the same text, even if other identities
// were refused with it.
func About(err error, resourceID string) string {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return fmt.Sprintf("Azure refuses identity %s: %s", shortID(resourceID), stable(err.Error()))
	}
	alone := *r
	alone.identities = nil
	if r.aboutIdentities() {
		alone.identities = []string{resourceID}
	}
	return fmt.Sprintf("Azure refuses identity %s on %s: %s", shortID(resourceID), r.group, alone.reason(messageAbout(r.message, resourceID)))
}

// AboutGroup returns the message about a refusal that blocks all identities of a node group. It
// names no identity because every owner of a pod there reads it.
func AboutGroup(err error) string {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return stable(err.Error())
	}
	alone := *r
	alone.identities = nil
	return fmt.Sprintf("%s %s: %s", r.act, r.group, alone.reason(messageAbout(r.message, "")))
}

// reason returns "code: remedy; Azure says: words" without the empty parts.
func (r *refusal) reason(words string) string {
	var parts []string
	remedy := r.remedy()
	switch {
	case r.notARM():
		words = "" // could concern any identity
		parts = append(parts, r.notARMMessage())
	case r.code != "":
		parts = append(parts, r.code)
	case remedy+words == "":
		parts = append(parts, fmt.Sprintf("HTTP %d without a reason", r.status))
	}
	if remedy != "" {
		parts = append(parts, remedy)
	}
	said := strings.Join(parts, ": ")
	switch {
	case words == "":
		return said
	case said == "":
		return cut(words)
	case remedy == "":
		return said + ": " + cut(words)
	default:
		return said + "; Azure says: " + cut(words)
	}
}

// shortID returns <resource group>/<name> of an identity.
func shortID(resourceID string) string {
	parts := strings.Split(resourceID, "/")
	// "", subscriptions, S, resourceGroups, G, providers, Microsoft.ManagedIdentity,
	// userAssignedIdentities, NAME
	if len(parts) != 9 {
		return shorten(resourceID)
	}
	return parts[4] + "/" + parts[8]
}

// The parts of ARM's messages that differ between responses. known is the GUID of the refused
// client.
var (
	tracking = regexp.MustCompile(`(?i)[\s,;.(\[]*\b(?:(?:service|client|server)[ -]?)?` +
		`(?:tracking|correlation|activity|request|operation|trace|session|transaction)[ _-]?ids?\b['"]?\s*(?:is|was|of|=|:)?\s*['"]?[0-9a-z][\w:.…-]{7,}['"]?[)\]]*`)
	timestamp = regexp.MustCompile(`(?i)[\s,;.(\[]*(?:\btime ?stamp\b['"]?\s*[:=]?\s*['"]?)?\b\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?z?['"]?[)\]]*`)
	known     = regexp.MustCompile(`(?i)(\b(?:client|object id|principal|tenant|application|appid)s? ['"]?)([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
)

// stable removes what differs between ARM's responses, and shortens client IDs.
func stable(message string) string {
	message = strings.Join(strings.Fields(message), " ")
	message = tracking.ReplaceAllString(message, "")
	message = timestamp.ReplaceAllString(message, "")
	message = known.ReplaceAllString(message, "$1$2…")
	message = principalID.ReplaceAllStringFunc(message, func(match string) string { return shortened(match, 0) })
	return strings.TrimSpace(message)
}

// messageAbout returns ARM's message in stable form, or "" if it mentions another identity.
func messageAbout(message, resourceID string) string {
	words := stable(message)
	others := identityType.ReplaceAllString(blank(ascii.ToLower(words), ascii.ToLower(resourceID)), "$1")
	if strings.Contains(others, "userassignedidentities") {
		return ""
	}
	return words
}

// identityType matches the resource type and ARM's operations on it. It does not match an
// identity's ID, in which the type follows the path of a provider.
var identityType = regexp.MustCompile(`(^|[^/])microsoft\.managedidentity/userassignedidentities` +
	`(?:/(?:\*/)?(?:assign/action|read|write|delete|action))?(?:['"\s,.;:)]|$)`)

// blank removes an ID from the text, except where it is the prefix of a longer one.
func blank(words, id string) string {
	if id == "" {
		return words
	}
	var b strings.Builder
	for {
		at := strings.Index(words, id)
		if at < 0 {
			b.WriteString(words)
			return b.String()
		}
		end := at + len(id)
		if end < len(words) && nameByte(words[end]) {
			b.WriteString(words[:end])
		} else {
			b.WriteString(words[:at])
		}
		words = words[end:]
	}
}
