// Kubernetes' own Go client against a cluster: what operators are built on (informers with their caches, work queues,
// leader election, server-side apply, the dynamic client, discovery), with the wire format that it prefers.
//
// It prints one line per check and exits with 1 at the first that fails. Everything happens in one namespace, which the
// caller makes and removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"
)

var (
	kubeconfig = flag.String("kubeconfig", "", "the cluster's kubeconfig")
	namespace  = flag.String("namespace", "default", "where everything happens")
)

// What the checks share.
type cluster struct {
	config  *rest.Config
	typed   *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

type check struct {
	name string
	run  func(context.Context, cluster) error
}

func main() {
	flag.Parse()
	connected, err := connect()
	if err != nil {
		fail("connect", err)
	}
	for _, one := range []check{
		{"discovery", discovery},
		{"informer, lister and work queue", informer},
		{"informer with selectors", selected},
		{"dynamic informer", dynamicInformer},
		{"conflict and retry", conflict},
		{"server-side apply", apply},
		{"chunked list", chunked},
		{"patch kinds", patches},
		{"leader election", election},
		{"errors", errorsMatch},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		if err := one.run(ctx, connected); err != nil {
			cancel()
			fail(one.name, err)
		}
		cancel()
		fmt.Println("ok", one.name)
	}
	fmt.Println("all good")
}

func fail(name string, err error) {
	fmt.Printf("FAILED %s: %v\n", name, err)
	os.Exit(1)
}

func connect() (cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return cluster{}, err
	}
	// As the Go components of a real cluster are set.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS, config.Burst = 200, 400
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return cluster{}, err
	}
	untyped, err := dynamic.NewForConfig(config)
	return cluster{config, typed, untyped}, err
}

func configMap(name string, labels map[string]string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: data}
}

// until waits for a condition with the deadline of the context.
func until(ctx context.Context, what string, holds func() bool) error {
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within the time", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func discovery(ctx context.Context, c cluster) error {
	version, err := c.typed.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	if version.Major != "1" {
		return fmt.Errorf("major version %q", version.Major)
	}
	groups, lists, err := c.typed.Discovery().ServerGroupsAndResources()
	if err != nil {
		return err
	}
	if len(groups) < 10 {
		return fmt.Errorf("%d groups only", len(groups))
	}
	for _, wanted := range []string{"pods", "pods/exec", "configmaps", "deployments", "deployments/scale", "leases"} {
		found := slices.ContainsFunc(lists, func(list *metav1.APIResourceList) bool {
			return slices.ContainsFunc(list.APIResources, func(resource metav1.APIResource) bool { return resource.Name == wanted })
		})
		if !found {
			return fmt.Errorf("%s is not discovered", wanted)
		}
	}
	return nil
}

// A controller in small: an informer feeds a queue, a worker copies each object's data from the lister.
func informer(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	for i := range 20 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("inf-%02d", i), nil, map[string]string{"n": "0"}), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(c.typed, 0, informers.WithNamespace(*namespace))
	watched := factory.Core().V1().ConfigMaps()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	defer queue.ShutDown()
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			queue.Add(key)
		}
	}
	var added, updated, deleted atomic.Int64
	_, err := watched.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { added.Add(1); enqueue(object) },
		UpdateFunc: func(_, object any) { updated.Add(1); enqueue(object) },
		DeleteFunc: func(object any) { deleted.Add(1); enqueue(object) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), watched.Informer().HasSynced) {
		return errors.New("the cache did not sync")
	}
	var worked atomic.Int64
	go func() {
		for {
			key, shutdown := queue.Get()
			if shutdown {
				return
			}
			worked.Add(1)
			queue.Forget(key)
			queue.Done(key)
		}
	}()
	for i := range 20 {
		name := fmt.Sprintf("inf-%02d", i)
		if _, err := maps.Update(ctx, configMap(name, nil, map[string]string{"n": "1"}), metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	lister := watched.Lister().ConfigMaps(*namespace)
	if err := until(ctx, "all updates in the cache", func() bool {
		for i := range 20 {
			if object, err := lister.Get(fmt.Sprintf("inf-%02d", i)); err != nil || object.Data["n"] != "1" {
				return false
			}
		}
		return true
	}); err != nil {
		return err
	}
	for i := range 20 {
		if err := maps.Delete(ctx, fmt.Sprintf("inf-%02d", i), metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	if err := until(ctx, "all deletions", func() bool { return deleted.Load() >= 20 }); err != nil {
		return err
	}
	if added.Load() < 20 || updated.Load() < 20 || worked.Load() == 0 {
		return fmt.Errorf("%d added, %d updated, %d worked on", added.Load(), updated.Load(), worked.Load())
	}
	return nil
}

// An object that stops matching a selector is deleted for its watchers.
func selected(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	factory := informers.NewSharedInformerFactoryWithOptions(c.typed, 0, informers.WithNamespace(*namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "colour in (red,blue),!hidden" }))
	watched := factory.Core().V1().ConfigMaps()
	lister := watched.Lister().ConfigMaps(*namespace)
	factory.Start(ctx.Done())
	watchedInformer := watched.Informer()
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), watchedInformer.HasSynced) {
		return errors.New("the cache did not sync")
	}
	count := func(wanted int) func() bool {
		return func() bool {
			objects, err := lister.List(labels.Everything())
			return err == nil && len(objects) == wanted
		}
	}
	for name, colour := range map[string]string{"sel-a": "red", "sel-b": "blue", "sel-c": "green"} {
		if _, err := maps.Create(ctx, configMap(name, map[string]string{"colour": colour}, nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := until(ctx, "the two that match", count(2)); err != nil {
		return err
	}
	patch := []byte(`{"metadata":{"labels":{"hidden":"yes"}}}`)
	if _, err := maps.Patch(ctx, "sel-a", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := until(ctx, "the one that is left", count(1)); err != nil {
		return err
	}
	return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "colour"})
}

func dynamicInformer(ctx context.Context, c cluster) error {
	resource := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.dynamic, 0, *namespace, nil)
	watched := factory.ForResource(resource)
	watchedInformer := watched.Informer()
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), watchedInformer.HasSynced) {
		return errors.New("the cache did not sync")
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"generateName": "dyn-"}, "data": map[string]any{"a": "b"},
	}}
	created, err := c.dynamic.Resource(resource).Namespace(*namespace).Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := until(ctx, "the object in the cache", func() bool {
		_, err := watched.Lister().ByNamespace(*namespace).Get(created.GetName())
		return err == nil
	}); err != nil {
		return err
	}
	return c.dynamic.Resource(resource).Namespace(*namespace).Delete(ctx, created.GetName(), metav1.DeleteOptions{})
}

// Ten writers count in one object; nothing is lost and somebody has to try again.
func conflict(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	if _, err := maps.Create(ctx, configMap("count", nil, map[string]string{"n": ""}), metav1.CreateOptions{}); err != nil {
		return err
	}
	failed := make(chan error, 10)
	backoff := retry.DefaultBackoff
	backoff.Steps = 30
	for range 10 {
		go func() {
			failed <- retry.RetryOnConflict(backoff, func() error {
				object, err := maps.Get(ctx, "count", metav1.GetOptions{})
				if err != nil {
					return err
				}
				object.Data["n"] += "x"
				_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
				return err
			})
		}()
	}
	for range 10 {
		if err := <-failed; err != nil {
			return err
		}
	}
	object, err := maps.Get(ctx, "count", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if object.Data["n"] != "xxxxxxxxxx" {
		return fmt.Errorf("counted %q", object.Data["n"])
	}
	stale := object.DeepCopy()
	stale.ResourceVersion = "1"
	if _, err := maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("a stale update: %v", err)
	}
	return nil
}

func apply(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	mine := corev1apply.ConfigMap("applied", *namespace).WithData(map[string]string{"a": "1", "b": "1"})
	if _, err := maps.Apply(ctx, mine, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	yours := corev1apply.ConfigMap("applied", *namespace).WithData(map[string]string{"b": "2"})
	_, err := maps.Apply(ctx, yours, metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("two managers of one field: %v", err)
	}
	if _, err := maps.Apply(ctx, yours, metav1.ApplyOptions{FieldManager: "two", Force: true}); err != nil {
		return err
	}
	mine = corev1apply.ConfigMap("applied", *namespace).WithData(map[string]string{"c": "3"})
	object, err := maps.Apply(ctx, mine, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	if len(object.Data) != 2 || object.Data["b"] != "2" || object.Data["c"] != "3" {
		return fmt.Errorf("after all: %v", object.Data)
	}
	extracted, err := corev1apply.ExtractConfigMap(object, "two")
	if err != nil {
		return err
	}
	if len(extracted.Data) != 1 || extracted.Data["b"] != "2" {
		return fmt.Errorf("the second manager owns %v", extracted.Data)
	}
	return nil
}

func chunked(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	for i := range 25 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("chunk-%02d", i), map[string]string{"chunk": "yes"}, nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	first, err := maps.List(ctx, metav1.ListOptions{Limit: 10})
	if err != nil {
		return err
	}
	if len(first.Items) != 10 || first.Continue == "" || first.RemainingItemCount == nil {
		return fmt.Errorf("%d items, continue %q, remaining %v", len(first.Items), first.Continue, first.RemainingItemCount)
	}
	seen := map[string]bool{}
	pages := pager.New(pager.SimplePageFunc(nil))
	pages.PageSize = 7
	pages.PageFn = pager.SimplePageFunc(func(options metav1.ListOptions) (object runtime.Object, err error) {
		return maps.List(ctx, options)
	})
	if err := pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: "chunk"}, func(object runtime.Object) error {
		seen[object.(*corev1.ConfigMap).Name] = true
		return nil
	}); err != nil {
		return err
	}
	if len(seen) != 25 {
		return fmt.Errorf("%d of 25 seen", len(seen))
	}
	return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "chunk"})
}

func patches(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	if _, err := maps.Create(ctx, configMap("patched", nil, map[string]string{"a": "1", "b": "2"}), metav1.CreateOptions{}); err != nil {
		return err
	}
	for kind, patch := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op":"test","path":"/data/a","value":"1"},{"op":"add","path":"/data/json","value":"x"}]`,
		types.MergePatchType:          `{"data":{"b":null,"merge":"x"}}`,
		types.StrategicMergePatchType: `{"data":{"strategic":"x"}}`,
	} {
		if _, err := maps.Patch(ctx, "patched", kind, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	object, err := maps.Get(ctx, "patched", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(object.Data) != 4 || object.Data["b"] != "" {
		return fmt.Errorf("after all: %v", object.Data)
	}
	_, err = maps.Patch(ctx, "patched", types.JSONPatchType, []byte(`[{"op":"test","path":"/data/a","value":"9"}]`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		return fmt.Errorf("a test that does not hold: %v", err)
	}
	return nil
}

// The second candidate leads once the first gives up.
func election(ctx context.Context, c cluster) error {
	leads := make(chan string, 2)
	candidate := func(name string) context.CancelFunc {
		own, cancel := context.WithCancel(ctx)
		lock := &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: "election", Namespace: *namespace},
			Client:     c.typed.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		go leaderelection.RunOrDie(own, leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true, LeaseDuration: 6 * time.Second, RenewDeadline: 4 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- name },
				OnStoppedLeading: func() {},
			},
		})
		return cancel
	}
	next := func() (string, error) {
		select {
		case name := <-leads:
			return name, nil
		case <-ctx.Done():
			return "", errors.New("nobody leads")
		}
	}
	end := candidate("first")
	if name, err := next(); err != nil || name != "first" {
		return fmt.Errorf("%q leads: %w", name, err)
	}
	endSecond := candidate("second")
	defer endSecond()
	end()
	if name, err := next(); err != nil || name != "second" {
		return fmt.Errorf("%q leads: %w", name, err)
	}
	return nil
}

func errorsMatch(ctx context.Context, c cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(*namespace)
	_, missing := maps.Get(ctx, "nobody", metav1.GetOptions{})
	_, exists := maps.Create(ctx, configMap("patched", nil, nil), metav1.CreateOptions{})
	_, invalid := maps.Create(ctx, configMap("Not_A_Name", nil, nil), metav1.CreateOptions{})
	_, gone := maps.List(ctx, metav1.ListOptions{Continue: "no token"})
	uid := types.UID("another")
	precondition := maps.Delete(ctx, "patched", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	for _, one := range []struct {
		name  string
		err   error
		holds func(error) bool
	}{
		{"not found", missing, apierrors.IsNotFound},
		{"already exists", exists, apierrors.IsAlreadyExists},
		{"invalid", invalid, apierrors.IsInvalid},
		{"bad continue token", gone, apierrors.IsBadRequest},
		{"another UID", precondition, apierrors.IsConflict},
	} {
		if !one.holds(one.err) {
			return fmt.Errorf("%s: %v", one.name, one.err)
		}
	}
	return nil
}
