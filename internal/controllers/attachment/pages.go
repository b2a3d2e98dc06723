// The pages of a ledger: one ConfigMap holds 1 MiB at most, a node group may have more.

package attachment

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

// The room of a ledger. The API server takes 1 MiB of data in one ConfigMap; half of that keeps
// a single write small. An entry is some 400 bytes, so one page serves most node groups.
const (
	pageSize    = 512 << 10
	ledgerPages = 16
	ledgerRoom  = ledgerPages * pageSize
)

// book says which ConfigMaps a group's ledger is in.
type book struct {
	namespace string
	name      string // of the first page; the others add their number
	group     compute.Group
}

// page is one ConfigMap of a ledger as it is stored.
type page struct {
	number  int // from 1
	version string
	entries map[string]Entry
}

// Record is the ledger of one node group as it is stored.
type Record struct {
	// Group is empty when no page names one.
	Group compute.Group
	// Entries by canonical resource ID.
	Entries map[string]Entry
	// Damaged is why a page cannot be read, nil when all can.
	Damaged error
	// Namespace and Name are those of the first ConfigMap.
	Namespace, Name string

	pages []page
}

// Save replaces the entries and returns the record as it is stored then, also after an error.
// Without entries the ConfigMaps are deleted. A page that another writer changed since the record
// was read is a conflict.
func (r Record) Save(ctx context.Context, w client.Writer, entries map[string]Entry) (Record, error) {
	pages, err := book{r.Namespace, r.Name, r.Group}.save(ctx, w, r.pages, entries)
	r.pages, r.Entries = pages, entriesOf(pages)
	return r, err
}

// Records groups ConfigMaps by the ledgers that they are pages of, ordered by name.
func Records(configMaps []corev1.ConfigMap) []Record {
	type key struct{ namespace, name string }
	byName := map[key]*Record{}
	for i := range configMaps {
		name, number := pageName(configMaps[i].Name)
		k := key{configMaps[i].Namespace, name}
		if byName[k] == nil {
			byName[k] = &Record{Namespace: k.namespace, Name: k.name, Entries: map[string]Entry{}}
		}
		byName[k].add(&configMaps[i], number)
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
	group, entries, err := ReadLedger(cm)
	if r.Group == (compute.Group{}) {
		r.Group = group
	}
	if err != nil && r.Damaged == nil {
		r.Damaged = err
	}
	p := page{number: number, version: cm.ResourceVersion, entries: map[string]Entry{}}
	for _, e := range entries {
		p.entries[keyOf(e.ResourceID)] = e
	}
	maps.Copy(r.Entries, p.entries)
	r.pages = append(r.pages, p)
}

// numbered matches the names of all pages but the first.
var numbered = regexp.MustCompile(`^(.+-[0-9a-f]{` + strconv.Itoa(nameDigits) + `})-([0-9]{1,4})$`)

// pageName splits a ConfigMap's name into that of the first page and the page's number.
func pageName(name string) (first string, number int) {
	found := numbered.FindStringSubmatch(name)
	if found == nil {
		return name, 1
	}
	number, _ = strconv.Atoi(found[2]) // digits only
	return found[1], number
}

// nameOf returns the name of a page's ConfigMap.
func (b book) nameOf(number int) string {
	if number == 1 {
		return b.name
	}
	return b.name + "-" + strconv.Itoa(number)
}

// load reads the pages one after the other, until there is no further one.
func (b book) load(ctx context.Context, reader client.Reader) (Record, error) {
	var pages []corev1.ConfigMap
	for number := 1; ; number++ {
		var cm corev1.ConfigMap
		err := reader.Get(ctx, client.ObjectKey{Namespace: b.namespace, Name: b.nameOf(number)}, &cm)
		if apierrors.IsNotFound(err) {
			break
		}
		if err != nil {
			return Record{}, fmt.Errorf("read ledger of %s: %w", b.group, err)
		}
		pages = append(pages, cm)
	}
	if len(pages) == 0 {
		return Record{Group: b.group, Namespace: b.namespace, Name: b.name}, nil
	}
	return Records(pages)[0], nil
}

// arrange distributes entries over pages. An entry stays on its page, so that a change writes few
// of them; a new one goes to a page with room.
func arrange(before []page, entries map[string]Entry) []page {
	pages, sizes := make([]page, 0, len(before)), make([]int, len(before))
	left := maps.Clone(entries)
	for i, have := range before {
		p := page{number: have.number, version: have.version, entries: map[string]Entry{}}
		for key := range have.entries {
			if entry, ok := left[key]; ok {
				p.entries[key] = entry
				sizes[i] += entry.size()
				delete(left, key)
			}
		}
		pages = append(pages, p)
	}
	at := 0
	for _, key := range slices.Sorted(maps.Keys(left)) {
		size := left[key].size()
		for at < len(pages) && sizes[at]+size > pageSize {
			at++
		}
		if at == len(pages) {
			pages, sizes = append(pages, page{number: nextNumber(pages), entries: map[string]Entry{}}), append(sizes, 0)
		}
		pages[at].entries[key] = left[key]
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

// size is how many bytes an entry takes on a page.
func (e Entry) size() int {
	text, _ := json.MarshalIndent(e, "  ", "  ") // strings and booleans: cannot fail
	const separators = 4
	return len(text) + separators
}

// save writes the pages that differ, and deletes those at the end that are empty. What is stored
// is returned also after an error. Pages are written in order and deleted from the last one, so
// that load finds them all whenever this ends.
func (b book) save(ctx context.Context, w client.Writer, before []page, entries map[string]Entry) ([]page, error) {
	want := arrange(before, entries)
	used := len(want)
	for used > 0 && len(want[used-1].entries) == 0 {
		used--
	}
	stored := slices.Clone(before)
	for i, p := range want[:used] {
		if i < len(before) && maps.Equal(p.entries, before[i].entries) {
			continue
		}
		written, err := b.write(ctx, w, p)
		if err != nil {
			return stored, b.wrap(err)
		}
		if i == len(stored) {
			stored = append(stored, written)
		}
		stored[i] = written
	}
	for len(stored) > used {
		last := stored[len(stored)-1]
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: b.nameOf(last.number)}}
		err := w.Delete(ctx, cm, client.Preconditions(metav1.Preconditions{ResourceVersion: &last.version}))
		if client.IgnoreNotFound(err) != nil {
			return stored, b.wrap(err)
		}
		stored = stored[:len(stored)-1]
	}
	return stored, nil
}

// write stores one page.
func (b book) write(ctx context.Context, w client.Writer, p page) (page, error) {
	cm, err := b.document(p)
	if err != nil {
		return page{}, err
	}
	if p.version != "" {
		err = w.Update(ctx, cm)
	} else {
		err = w.Create(ctx, cm)
	}
	// A page that load did not see, behind one that was deleted by hand: leave it alone.
	for ; p.version == "" && p.number > 1 && apierrors.IsAlreadyExists(err) && p.number < mostPages; err = w.Create(ctx, cm) {
		p.number++
		if cm, err = b.document(p); err != nil {
			return page{}, err
		}
	}
	if err != nil {
		if p.refused(err) {
			err = &refusedPageError{err}
		}
		return page{}, err
	}
	p.version = cm.ResourceVersion
	return p, nil
}

// mostPages bounds the search for a free name.
const mostPages = 4 * ledgerPages

// refused reports whether the API server refuses this page, and may take the others: a quota of
// ConfigMaps is used up, or the page is too large.
func (p page) refused(err error) bool {
	tooLarge := apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err)
	return tooLarge || p.version == "" && p.number > 1 && apierrors.IsForbidden(err)
}

// refusedPageError is the API server's refusal of one page. The other pages are written.
type refusedPageError struct{ err error }

// Error is the API server's message.
func (e *refusedPageError) Error() string { return e.err.Error() }

// Unwrap returns the API server's error.
func (e *refusedPageError) Unwrap() error { return e.err }

func isRefusedPage(err error) bool {
	_, ok := errors.AsType[*refusedPageError](err)
	return ok
}

func (b book) wrap(err error) error { return fmt.Errorf("write ledger of %s: %w", b.group, err) }

// document is the ConfigMap of a page.
func (b book) document(p page) (*corev1.ConfigMap, error) {
	list := slices.SortedFunc(maps.Values(p.entries), func(a, b Entry) int { return cmp.Compare(a.ResourceID, b.ResourceID) })
	name, err := json.Marshal(groupDocument(b.group))
	if err != nil {
		return nil, err
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: b.namespace, Name: b.nameOf(p.number), ResourceVersion: p.version,
			Labels: map[string]string{ManagedByLabel: ManagedBy},
		},
		Data: map[string]string{groupKey: string(name)},
	}
	return cm, SetEntries(cm, list)
}

// entriesOf are the entries of all pages.
func entriesOf(pages []page) map[string]Entry {
	entries := map[string]Entry{}
	for _, p := range pages {
		maps.Copy(entries, p.entries)
	}
	return entries
}

// samePages reports whether two readings found the same versions.
func samePages(a, b []page) bool {
	return slices.EqualFunc(a, b, func(a, b page) bool { return a.number == b.number && a.version == b.version })
}
