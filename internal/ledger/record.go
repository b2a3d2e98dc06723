// The pages of a ledger: one ConfigMap holds 1 MiB at most, a node group may need more.

package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/compute"
)

// The size of a ledger. The API server accepts 1 MiB of data in one ConfigMap; half of that keeps a
// single write small. An entry is some 400 bytes, so one page is enough for most node groups.
const (
	pageSize = 512 << 10
	maxPages = 16
	// Capacity of a node group's ledger in bytes.
	Capacity = maxPages * pageSize
)

// Record is the ledger of one node group as it is stored.
type Record struct {
	// Group is empty if no page names one.
	Group compute.Group
	// Entries by canonical resource ID.
	Entries map[string]Entry
	// Damaged is why a page cannot be read, nil if all can.
	Damaged error
	// Namespace and Name are those of the first ConfigMap.
	Namespace, Name string

	pages []page
}

// page is one ConfigMap of a ledger as it is stored.
type page struct {
	number  int // from 1
	version string
	entries map[string]Entry
}

// Records groups ConfigMaps by the ledgers whose pages they are, ordered by name.
func Records(configMaps []corev1.ConfigMap) []Record {
	byName := map[client.ObjectKey]*Record{}
	for i := range configMaps {
		first, number := parsePageName(configMaps[i].Name)
		key := client.ObjectKey{Namespace: configMaps[i].Namespace, Name: first}
		if byName[key] == nil {
			byName[key] = &Record{Namespace: key.Namespace, Name: key.Name, Entries: map[string]Entry{}}
		}
		byName[key].add(&configMaps[i], number)
	}
	records := make([]Record, 0, len(byName))
	for _, r := range byName {
		slices.SortFunc(r.pages, func(a, b page) int { return cmp.Compare(a.number, b.number) })
		records = append(records, *r)
	}
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return records
}

// add reads one page.
func (r *Record) add(cm *corev1.ConfigMap, number int) {
	group, entries, err := Parse(cm)
	if r.Group == (compute.Group{}) {
		r.Group = group
	}
	if err != nil && r.Damaged == nil {
		r.Damaged = err
	}
	p := page{number: number, version: cm.ResourceVersion, entries: map[string]Entry{}}
	for _, e := range entries {
		p.entries[Key(e.ResourceID)] = e
	}
	maps.Copy(r.Entries, p.entries)
	r.pages = append(r.pages, p)
}

// numbered matches the names of all pages but the first.
var numbered = regexp.MustCompile(`^(.+-[0-9a-f]{` + strconv.Itoa(nameDigits) + `})-([0-9]{1,4})$`)

// parsePageName splits a ConfigMap's name into that of the first page and the page's number.
func parsePageName(name string) (first string, number int) {
	found := numbered.FindStringSubmatch(name)
	if found == nil {
		return name, 1
	}
	number, _ = strconv.Atoi(found[2]) // digits only
	return found[1], number
}

// SameVersion reports whether both records were read from the same versions of the same pages.
func (r Record) SameVersion(other Record) bool {
	return slices.EqualFunc(r.pages, other.pages, func(a, b page) bool {
		return a.number == b.number && a.version == b.version
	})
}

// Save replaces the entries and returns the record as it is stored afterward, also on failure.
// It writes only the pages that differ. Without entries, the ConfigMaps are deleted.
//
// Pages are written in order and deleted from the last one, so that Store.Load finds all of them
// wherever Save is interrupted. If another writer changed a page since the record was read, Save
// fails and IsOvertaken reports true.
func (r Record) Save(ctx context.Context, w client.Writer, entries map[string]Entry) (Record, error) {
	want := arrange(r.pages, entries)
	used := len(want)
	for used > 0 && len(want[used-1].entries) == 0 {
		used--
	}
	stored, err := r.writePages(ctx, w, want[:used])
	if err == nil {
		stored, err = r.deletePages(ctx, w, stored, used)
	}
	r.pages, r.Entries = stored, map[string]Entry{}
	for _, p := range stored {
		maps.Copy(r.Entries, p.entries)
	}
	if err != nil {
		return r, fmt.Errorf("write ledger of %s: %w", r.Group, err)
	}
	return r, nil
}

// writePages stores the pages that differ from the record's.
func (r Record) writePages(ctx context.Context, w client.Writer, want []page) (stored []page, err error) {
	stored = slices.Clone(r.pages)
	for i, p := range want {
		if i < len(r.pages) && maps.Equal(p.entries, r.pages[i].entries) {
			continue
		}
		written, err := r.writePage(ctx, w, p)
		if err != nil {
			return stored, err
		}
		if i == len(stored) {
			stored = append(stored, written)
		}
		stored[i] = written
	}
	return stored, nil
}

// deletePages deletes the last pages, so that n are left.
func (r Record) deletePages(ctx context.Context, w client.Writer, stored []page, n int) ([]page, error) {
	for len(stored) > n {
		last := stored[len(stored)-1]
		cm := &corev1.ConfigMap{}
		cm.Namespace, cm.Name = r.Namespace, pageName(r.Name, last.number)
		err := w.Delete(ctx, cm, client.Preconditions(metav1.Preconditions{ResourceVersion: &last.version}))
		if client.IgnoreNotFound(err) != nil {
			return stored, err
		}
		stored = stored[:len(stored)-1]
	}
	return stored, nil
}

// arrange distributes entries over pages. An entry stays on its page, so that a change rewrites few
// of them; a new one goes to a page with room.
func arrange(before []page, entries map[string]Entry) []page {
	pages, sizes := make([]page, 0, len(before)), make([]int, len(before))
	added := maps.Clone(entries)
	for i, have := range before {
		p := page{number: have.number, version: have.version, entries: map[string]Entry{}}
		for key := range have.entries {
			if entry, ok := added[key]; ok {
				p.entries[key] = entry
				sizes[i] += entry.Size()
				delete(added, key)
			}
		}
		pages = append(pages, p)
	}
	at := 0
	for _, key := range slices.Sorted(maps.Keys(added)) {
		size := added[key].Size()
		for at < len(pages) && sizes[at]+size > pageSize {
			at++
		}
		if at == len(pages) {
			pages, sizes = append(pages, page{number: nextNumber(pages), entries: map[string]Entry{}}), append(sizes, 0)
		}
		pages[at].entries[key] = added[key]
		sizes[at] += size
	}
	return pages
}

func nextNumber(pages []page) int {
	if len(pages) == 0 {
		return 1
	}
	return pages[len(pages)-1].number + 1
}

// Size is how many bytes an entry takes on a page.
func (e Entry) Size() int {
	text, _ := json.MarshalIndent(e, "  ", "  ") // strings and booleans: cannot fail
	const separators = 4
	return len(text) + separators
}

// maxPageNumber bounds the search for an unused name.
const maxPageNumber = 4 * maxPages

// writePage stores one page.
func (r Record) writePage(ctx context.Context, w client.Writer, p page) (page, error) {
	cm, err := r.document(p)
	if err != nil {
		return page{}, err
	}
	if p.version != "" {
		err = w.Update(ctx, cm)
	} else {
		err = w.Create(ctx, cm)
	}
	// Load did not see this page because the one before it was deleted by hand: do not touch it.
	for p.version == "" && p.number > 1 && p.number < maxPageNumber && apierrors.IsAlreadyExists(err) {
		p.number++
		if cm, err = r.document(p); err != nil {
			return page{}, err
		}
		err = w.Create(ctx, cm)
	}
	if err != nil {
		if p.refusedBy(err) {
			err = &pageRefusedError{err}
		}
		return page{}, err
	}
	p.version = cm.ResourceVersion
	return p, nil
}

// document returns the ConfigMap of a page.
func (r Record) document(p page) (*corev1.ConfigMap, error) {
	list := slices.SortedFunc(maps.Values(p.entries), func(a, b Entry) int {
		return cmp.Compare(a.ResourceID, b.ResourceID)
	})
	group, err := json.Marshal(groupDocument(r.Group))
	if err != nil {
		return nil, err
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.Namespace, Name: pageName(r.Name, p.number), ResourceVersion: p.version,
			Labels: map[string]string{ManagedByLabel: ManagedBy},
		},
		Data: map[string]string{groupKey: string(group)},
	}
	return cm, SetEntries(cm, list)
}

// refusedBy reports whether the error is about this page only, so that others can still be written:
// the page is too large, or a quota of ConfigMaps is used up.
func (p page) refusedBy(err error) bool {
	tooLarge := apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err)
	return tooLarge || p.version == "" && p.number > 1 && apierrors.IsForbidden(err)
}

// pageRefusedError is the API server's refusal of one page.
type pageRefusedError struct{ err error }

// Error is the API server's message.
func (e *pageRefusedError) Error() string { return e.err.Error() }

// Unwrap returns the API server's error.
func (e *pageRefusedError) Unwrap() error { return e.err }

// IsPageRefused reports whether the API server refused one page of a record for good: it is too
// large, or a quota of ConfigMaps is used up.
func IsPageRefused(err error) bool {
	_, ok := errors.AsType[*pageRefusedError](err)
	return ok
}

// IsOvertaken reports whether a record was not saved because another writer had changed it.
func IsOvertaken(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}
